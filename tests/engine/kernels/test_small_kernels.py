"""Norm, activation, and what happens to queries, keys and values: kernels against definitions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from helexa.engine.kernels.placing import Projected, place_definition
from helexa.engine.kernels.rms_norm import add_rms_norm, norm_constants
from helexa.engine.kernels.rope import rotate
from helexa.engine.kernels.silu_mul import silu_mul
from helexa.engine.layers.rope import Rotary
from helexa.engine.rope_config import RopeConfig

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
EPSILON = {torch.float32: 2**-20, torch.float16: 2**-9, torch.bfloat16: 2**-6}


@pytest.fixture(scope="module", autouse=True)
def triton() -> None:
    pytest.importorskip("triton", reason="there is no triton for this machine")


def drawn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape) + seed)
    return torch.randn(shape, generator=generator).to(DEVICE, dtype)


def close(ours: Tensor, expected: Tensor) -> bool:
    scale = expected.abs().amax().float()
    error = (ours.float() - expected.float()).abs().amax()
    same = (ours.shape, ours.dtype) == (expected.shape, expected.dtype)
    return same and bool(error <= EPSILON[ours.dtype] * scale)


@pytest.mark.parametrize("dtype", EPSILON, ids=str)
@pytest.mark.parametrize("adds", [True, False])
@pytest.mark.parametrize(("rows", "size"), [(1, 8), (3, 127), (2, 1024), (1, 2500)])
def test_norm(rows: int, size: int, adds: bool, dtype: torch.dtype) -> None:
    from helexa.engine.kernels.norm_triton import add_rms_norm_on_device

    x, change = drawn(rows, size, dtype=dtype), drawn(rows, size, dtype=dtype, seed=1) * 3
    constants = norm_constants(drawn(size, seed=2), 1e-5)
    streams = x.clone(), x.clone()
    added = change if adds else None
    ours = add_rms_norm_on_device(streams[0], added, *constants)
    assert close(ours, add_rms_norm(streams[1], added, *constants))
    assert close(streams[0], streams[1])  # triton's interpreter cuts bfloat16, it does not round
    assert torch.equal(streams[0], x) is not adds


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("splits", [1, 2, 5])
def test_norm_of_a_change_in_splits(splits: int, dtype: torch.dtype) -> None:
    from helexa.engine.kernels.joining_triton import joined
    from helexa.engine.kernels.norm_triton import add_rms_norm_on_device

    x, parts = drawn(3, 300, dtype=dtype), drawn(splits, 3, 300, seed=1)
    constants = norm_constants(drawn(300, seed=2), 1e-5)
    streams = x.clone(), x.clone()
    ours = add_rms_norm_on_device(streams[0], parts, *constants)
    assert torch.equal(ours, add_rms_norm_on_device(streams[1], joined(parts, dtype), *constants))
    assert torch.equal(*streams)


def test_the_norm_of_zeros_is_zero() -> None:
    from helexa.engine.kernels.norm_triton import add_rms_norm_on_device

    zeros = torch.zeros(2, 24, device=DEVICE)
    constants = norm_constants(torch.ones(24, device=DEVICE), 1e-6)
    assert torch.equal(add_rms_norm_on_device(zeros, zeros.clone(), *constants), zeros)


@pytest.mark.parametrize("dtype", EPSILON, ids=str)
@pytest.mark.parametrize(("rows", "size"), [(1, 8), (3, 127), (2, 1500)])
def test_silu_mul(rows: int, size: int, dtype: torch.dtype) -> None:
    from helexa.engine.kernels.silu_mul_triton import silu_mul_on_device

    x = drawn(rows, 2 * size, dtype=dtype) * 20  # far enough for e^x to overflow 16 bits
    assert close(silu_mul_on_device(x), silu_mul(x))


@pytest.mark.parametrize("rope", ["plain", "partial", "yarn"])
def test_angles(rope: str) -> None:
    from helexa.engine.kernels.angles_triton import angles_on_device

    fields: dict[str, Any] = {"partial_rotary_factor": 0.25} if rope == "partial" else {}
    if rope == "yarn":
        fields = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
    rotary = Rotary(RopeConfig(theta=1e4, **fields), 40).to(DEVICE)
    positions = torch.tensor([0, 1, 77, 4095, 262143], device=DEVICE)
    ours = angles_on_device(positions, rotary.frequencies, rotary.factor)
    for one, expected in zip(ours, rotary(positions), strict=True):
        torch.testing.assert_close(one, expected, atol=1e-6, rtol=0)


def projected(heads: int, groups: int, dim: int, *, gated: bool, dtype: torch.dtype) -> Projected:
    width = ((2 if gated else 1) * heads + 2 * groups) * dim
    return Projected(drawn(5, width, dtype=dtype), heads, groups, gated)


def angles(tokens: int, turned: int) -> tuple[Tensor, Tensor]:
    """cos and sin as `Rotary` makes them."""
    half = drawn(tokens, 1, turned // 2)
    return torch.cat((half.cos(), half.cos()), -1), torch.cat((-half.sin(), half.sin()), -1)


SLOTS = [7, 0, -1, 3, 8]
SHAPES = [(4, 2, 32, 32), (3, 1, 20, 10), (2, 2, 48, 16), (6, 2, 8, 2)]


@pytest.mark.parametrize("dtype", EPSILON, ids=str)
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_placing(shape: tuple[int, ...], normed: bool, gated: bool, dtype: torch.dtype) -> None:
    from helexa.engine.kernels.placing_triton import place_on_device

    heads, groups, dim, turned = shape
    made = projected(heads, groups, dim, gated=gated, dtype=dtype)
    norm = norm_constants(drawn(heads + groups, dim), 1e-6) if normed else None
    memory = drawn(3, groups, 2, 10, dim, dtype=dtype)  # as in the cache, [layers, G, 2, slots, D]
    slots = torch.tensor(SLOTS, device=DEVICE)
    caches = [memory.clone()[1].transpose(0, 1) for _ in range(2)]
    call: Any = (made, norm, angles(5, turned))
    ours = place_on_device(*call, caches[0], slots)
    assert close(ours, place_definition(*call, caches[1], slots))
    assert close(caches[0], caches[1])
    untouched = [slot for slot in range(10) if slot not in SLOTS]
    before = memory[1].transpose(0, 1)
    assert torch.equal(caches[0][:, :, untouched], before[:, :, untouched])
    assert not torch.equal(caches[0][:, :, 8], before[:, :, 8])


def test_the_definition_of_placing_is_the_layer_s_own_way() -> None:
    made = projected(4, 2, 16, gated=False, dtype=torch.float32)
    turned = angles(5, 8)
    cache = torch.zeros(2, 2, 6, 16, device=DEVICE)
    q = place_definition(made, None, turned, cache, torch.arange(1, 6, device=DEVICE))
    heads = made.y.view(5, 8, 16)
    assert torch.equal(q, rotate(heads[:, :4], *turned))
    assert torch.equal(cache[0, :, 1:].transpose(0, 1), rotate(heads[:, 4:6], *turned))
    assert torch.equal(cache[1, :, 1:].transpose(0, 1), heads[:, 6:])


def test_gates_lie_behind_their_queries() -> None:
    made = projected(3, 1, 4, gated=True, dtype=torch.float32)
    gate = made.gate
    assert gate is not None
    for head in range(3):
        assert torch.equal(gate[:, head], made.y[:, 8 * head + 4 : 8 * head + 8])
        assert torch.equal(made.split()[0][:, head], made.y[:, 8 * head : 8 * head + 4])
    assert torch.equal(made.split()[1][:, 0], made.y[:, -4:])
