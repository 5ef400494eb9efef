"""Block formats are decoded as the `gguf` package does, bit for bit (E-029)."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor

from helexa.engine.quant.blocks.types import BLOCK_TYPES, BlockType

NAMES = sorted(BLOCK_TYPES)
EXTREME = (0x00, 0x01, 0x7C, 0x7F, 0x80, 0xFC, 0xFF)
"""Bytes that make zeros, infinities, NaN and the least and largest numbers of float16."""


def expected(blocks: Tensor, type: BlockType) -> Tensor:
    with np.errstate(all="ignore"):
        rows = gguf.quants.dequantize(blocks.numpy(), GGMLQuantizationType[type.name])
    return torch.from_numpy(rows)


def assert_same_bits(found: Tensor, wanted: Tensor) -> None:
    """NaN need not be the same NaN."""
    assert found.shape == wanted.shape
    assert found.dtype == wanted.dtype == torch.float32
    same = found.contiguous().view(torch.int32) == wanted.contiguous().view(torch.int32)
    assert (same | (found.isnan() & wanted.isnan())).all()


@pytest.mark.parametrize("name", NAMES)
def test_e029_sizes(name: str) -> None:
    type, id = BLOCK_TYPES[name], GGMLQuantizationType[name]
    assert (type.name, type.ggml_id) == (name, id)
    assert (type.elements, type.nbytes) == gguf.GGML_QUANT_SIZES[id]


@pytest.mark.parametrize("name", NAMES)
def test_e029_random_blocks(name: str) -> None:
    type = BLOCK_TYPES[name]
    random = torch.Generator().manual_seed(7)
    blocks = torch.randint(0, 256, (700, type.nbytes), dtype=torch.uint8, generator=random)
    assert_same_bits(type.dequantise(blocks), expected(blocks, type))


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_e029_extreme_blocks(name: str, data: st.DataObject) -> None:
    type = BLOCK_TYPES[name]
    some = st.sampled_from(EXTREME) | st.integers(0, 255)
    shape = (data.draw(st.integers(1, 3)), type.nbytes)
    blocks = torch.from_numpy(data.draw(arrays.arrays(np.uint8, shape, elements=some)))
    assert_same_bits(type.dequantise(blocks), expected(blocks, type))


@pytest.mark.parametrize("name", NAMES)
def test_leading_axes_and_rows(name: str) -> None:
    type = BLOCK_TYPES[name]
    blocks = torch.randint(0, 100, (2, 3, 5, type.nbytes), dtype=torch.uint8)
    flat = type.dequantise(blocks.view(-1, type.nbytes))
    assert_same_bits(type.dequantise(blocks), flat.view(2, 3, 5, type.elements))
    rows = type.matrix(blocks.view(6, -1))
    assert_same_bits(rows, flat.view(6, 5 * type.elements))
    assert blocks.view(6, -1).shape[1] == type.row_bytes(5 * type.elements)
