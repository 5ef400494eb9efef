"""One token of several sequences with states: the kernels, the definitions, the layer's own way."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from helexa.engine.hybrid_config import DeltaConfig
from helexa.engine.kernels.state_step import conv_step_definition, delta_step_definition

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
EPSILON = {torch.float32: 2**-18, torch.float16: 2**-9, torch.bfloat16: 2**-6}
SLOTS = [3, 0, -1, 4]


def drawn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape) + seed)
    return torch.randn(shape, generator=generator).to(DEVICE, dtype)


def close(ours: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    error = (ours.float() - expected.float()).abs().amax()
    same = (ours.shape, ours.dtype) == (expected.shape, expected.dtype)
    return same and bool(error <= EPSILON[dtype] * expected.abs().amax().float())


@pytest.fixture(scope="module", autouse=True)
def triton() -> None:
    pytest.importorskip("triton", reason="there is no triton for this machine")


@pytest.mark.parametrize("dtype", EPSILON, ids=str)
@pytest.mark.parametrize(("kernel", "channels"), [(4, 24), (2, 300), (1, 7), (3, 256)])
def test_convolution(kernel: int, channels: int, dtype: torch.dtype) -> None:
    from helexa.engine.kernels.state_step_triton import conv_step

    x, weight = drawn(4, channels + 9, dtype=dtype)[:, :channels], drawn(kernel, channels)
    before = drawn(5, kernel - 1, channels, dtype=dtype)
    states, slots = (before.clone(), before.clone()), torch.tensor(SLOTS, device=DEVICE)
    ours = conv_step(x, states[0], slots, weight)
    expected = conv_step_definition(x, states[1], slots, weight)
    kept = slots >= 0
    assert close(ours[kept], expected[kept], dtype)
    assert torch.equal(states[0], states[1])
    assert torch.equal(states[0][[1, 2]], before[[1, 2]])


def test_the_definition_is_a_convolution() -> None:
    x, weight = drawn(6, 10), drawn(4, 10)
    states = torch.zeros(1, 3, 10, device=DEVICE)
    slots = torch.zeros(1, dtype=torch.int64, device=DEVICE)
    rows = [conv_step_definition(row[None], states, slots, weight)[0] for row in x]
    inputs = F.pad(x.t()[None], (3, 0))
    expected = F.silu(F.conv1d(inputs, weight.t()[:, None], groups=10))[0].t()
    torch.testing.assert_close(torch.stack(rows), expected, atol=1e-5, rtol=1e-5)


SHAPES = [
    DeltaConfig(2, 4, 16, 16, 4),
    DeltaConfig(2, 6, 24, 40, 4, tiled=True),
    DeltaConfig(3, 3, 128, 10, 4),
    DeltaConfig(1, 2, 5, 33, 4),
]


@pytest.mark.parametrize("dtype", EPSILON, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_delta_rule(shape: DeltaConfig, dtype: torch.dtype) -> None:
    from helexa.engine.kernels.state_step_triton import delta_step_at

    heads = shape.value_heads
    qkv = drawn(4, shape.channels, dtype=dtype)
    gates = -drawn(4, heads).abs(), drawn(4, heads).sigmoid()
    before = drawn(5, heads, shape.key_dim, shape.value_dim)
    states, slots = (before.clone(), before.clone()), torch.tensor(SLOTS, device=DEVICE)
    ours = delta_step_at(qkv, gates, states[0], slots, shape)
    expected = delta_step_definition(qkv, gates, states[1], slots, shape)
    kept = slots >= 0
    assert close(ours[kept], expected[kept], torch.float32)
    assert close(states[0], states[1], torch.float32)
    assert torch.equal(states[0][[1, 2]], before[[1, 2]])


def test_keys_that_repeat_themselves() -> None:
    """β near 1, nothing forgotten: what a state holds for a key is replaced, not added to."""
    from helexa.engine.kernels.state_step_triton import delta_step_at

    shape = DeltaConfig(1, 1, 16, 16, 4)
    states = torch.zeros(2, 1, 1, 16, 16, device=DEVICE)
    slots = torch.zeros(1, dtype=torch.int64, device=DEVICE)
    base = drawn(1, 48)
    for step in range(96):
        qkv = base + 0.01 * drawn(1, 48, seed=step)
        gates = torch.full((1, 1), -1e-4, device=DEVICE), torch.full((1, 1), 0.999, device=DEVICE)
        ours = delta_step_at(qkv, gates, states[0], slots, shape)
        expected = delta_step_definition(qkv, gates, states[1], slots, shape)
        assert close(ours, expected, torch.float16)
    assert states.isfinite().all()
    assert states.abs().max() < 2 * base.abs().max()
