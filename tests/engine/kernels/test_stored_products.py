"""Products with matrices as they are stored, against what their formats mean."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor

from helexa.engine.kernels.matvec import Scratch
from helexa.engine.kernels.stored_matrix import BLOCKS, StoredMatrix
from helexa.engine.quant.blocks.types import BLOCK_TYPES
from helexa.engine.quant.blocks.weight import BlockWeight
from helexa.engine.quant.on_device import Storable
from tests.engine.kernels.stored import DEVICE, WEIGHTS, blocks, random

pytest.importorskip("triton", reason="there is no triton for this machine")

EPSILON = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.5e-2}
EXTREME = (0x00, 0x01, 0x7C, 0x7F, 0x80, 0xFC, 0xFF)
"""Bytes that make zeros, infinities, NaN and the least and largest numbers of float16."""
ALIKE = {"rtol": 0.0, "atol": 0.0} if DEVICE.type == "cpu" else {"rtol": 1e-3, "atol": 1.0}
"""A GPU rounds a product and a sum once, the definition each."""


@pytest.fixture(scope="module")
def kernels() -> Any:
    """The kernels, on a GPU, or interpreted on a CPU."""
    from helexa.engine.kernels import products_triton

    return products_triton


def stored(weight: Storable) -> StoredMatrix:
    matrix = weight.stored()
    assert matrix is not None
    assert all(tensor.is_contiguous() for tensor in matrix.tensors)
    return matrix


def wrong(found: Tensor, x: Tensor, weight: Storable) -> float:
    """How far a product is from the one in float64, relative to it."""
    assert found.shape == (len(x), weight.shape[0])
    assert found.dtype == x.dtype
    expected = x.double() @ weight.matrix().double().T
    return float((found.double() - expected).norm() / expected.norm())


def expanded(kernels: Any, matrix: StoredMatrix) -> Tensor:
    """The whole matrix, float32, from the kernel that expands it."""
    out = torch.empty(matrix.shape, device=DEVICE)
    with np.errstate(all="ignore"):  # which is what the interpreter computes with
        kernels.expand(matrix, out, 0, kernels.expanding(matrix))
    return out


@pytest.mark.parametrize("dtype", EPSILON, ids=str)
@pytest.mark.parametrize("name", WEIGHTS)
def test_products_match(name: str, dtype: torch.dtype, kernels: Any) -> None:
    """One row; a few, split or not; and many, by way of the expanded matrix."""
    weight = WEIGHTS[name]()
    matrix = stored(weight)
    for rows, splits in ((1, None), (1, 2), (3, None), (17, 2), (65, None)):
        if DEVICE.type == "cpu" and dtype == torch.bfloat16 and 1 < rows <= kernels.FEW:
            continue  # triton's interpreter multiplies the bits of bfloat16, not its values
        x = torch.randn(rows, weight.shape[1], generator=random(rows)).to(DEVICE, dtype)
        assert wrong(kernels.product(x, matrix, splits), x, weight) <= EPSILON[dtype]


@pytest.mark.parametrize("name", WEIGHTS)
def test_every_weight_is_read(name: str, kernels: Any) -> None:
    weight = WEIGHTS[name]()
    torch.testing.assert_close(expanded(kernels, stored(weight)), weight.matrix(), **ALIKE)


@pytest.mark.parametrize("name", sorted(BLOCKS))
@settings(max_examples=6)
@given(data=st.data())
def test_extreme_blocks(name: str, data: st.DataObject) -> None:
    from helexa.engine.kernels import products_triton

    type, some = BLOCK_TYPES[name], st.sampled_from(EXTREME) | st.integers(0, 255)
    drawn = data.draw(arrays.arrays(np.uint8, (2, type.nbytes), elements=some))
    weight = BlockWeight(type, torch.from_numpy(drawn).to(DEVICE), Scratch())
    found = expanded(products_triton, stored(weight))
    torch.testing.assert_close(found, weight.matrix(), equal_nan=True, **ALIKE)


def test_there_is_a_decoder_for_every_format_that_says_so(kernels: Any) -> None:
    assert set(kernels.DECODERS) == {*BLOCKS, "fp8", "groups", "plain"}


def test_no_rows_and_strided_rows(kernels: Any) -> None:
    weight = blocks("Q8_0", 20, 64)
    matrix = stored(weight)
    assert kernels.product(torch.empty(0, 64, device=DEVICE), matrix).shape == (0, 20)
    x = torch.randn(4, 128, device=DEVICE)[:, ::2]
    assert wrong(kernels.product(x, matrix), x, weight) <= EPSILON[torch.float32]


def test_a_matrix_is_expanded_in_pieces(kernels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "PIECE_BYTES", 4 * 96 * 40)
    weight = WEIGHTS["8 bits"]()
    x = torch.randn(70, 96, device=DEVICE)
    assert wrong(kernels.product(x, stored(weight)), x, weight) <= EPSILON[torch.float32]


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [1, 9, 100])
@pytest.mark.parametrize("name", WEIGHTS)
def test_the_host_does_not_wait(name: str, rows: int, kernels: Any) -> None:
    weight = WEIGHTS[name]()
    matrix = stored(weight)
    x = torch.randn(rows, weight.shape[1], device=DEVICE).bfloat16()
    first = kernels.product(x, matrix)  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        again = kernels.product(x, matrix)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(first, again)
    assert wrong(again, x, weight) <= EPSILON[torch.bfloat16]
