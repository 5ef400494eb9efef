"""The delta rule's kernels for GPUs, interpreted where there is none, against their definitions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from helexa.engine.kernels.causal_conv import causal_conv
from helexa.engine.kernels.delta_rule import delta_step, recurrent_delta_rule
from helexa.engine.kernels.rms_norm import norm_constants
from helexa.engine.layers.delta import l2norm, repeat_heads
from helexa.engine.layers.norm import GatedRMSNorm
from tests.engine.kernels.test_delta_rule import Inputs, alike, largest, patterns, random_inputs

pytest.importorskip("triton", reason="there is no triton for this machine")

from helexa.engine.kernels.causal_conv_triton import causal_conv_on_device
from helexa.engine.kernels.delta_chunks_triton import Spans, chunked_on_device
from helexa.engine.kernels.delta_rule_triton import delta_step_on_device
from helexa.engine.kernels.gated_norm_triton import gated_norm_on_device

# Of numpy, which the interpreter computes with: e^300 is infinite there as it is on a GPU.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
EPSILON = {torch.float32: 1e-5, torch.float16: 2e-3}
if DEVICE == "cuda":  # the interpreter takes the bits of bfloat16 for those of an integer
    EPSILON[torch.bfloat16] = 2e-2
ROOM = {"75": 64, "80": 163, "90": 227}
"""KiB of shared memory that a block may have, by capability."""


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))
    return drawn.to(DEVICE, dtype)


def index(*values: int) -> Tensor:
    return torch.tensor(values, device=DEVICE)


@pytest.mark.parametrize("dtype", EPSILON, ids=str)
@pytest.mark.parametrize(("taps", "channels"), [(2, 5), (4, 130), (6, 128)])
def test_convolutions_of_many_prompts(taps: int, channels: int, dtype: torch.dtype) -> None:
    """Of more tokens than a tile, and of fewer than the convolution is wide."""
    lengths, slots = [3, 16, 2, 37, 4], [4, 0, 5, 1, 3]
    starts = [2, 5, 21, 23, 60]
    x = noise(64, channels + 7, dtype=dtype)[:, :channels]
    weight, state = noise(taps, channels), noise(6, taps - 1, channels, dtype=dtype)
    expected = state.clone()
    where = index(*starts), index(*slots), index(*lengths)
    out = causal_conv_on_device(x, weight, state, *where, longest=37)
    for start, slot, length in zip(starts, slots, lengths, strict=True):
        rows = slice(start, start + length)
        wanted, expected[slot] = causal_conv(x[rows], expected[slot], weight)
        torch.testing.assert_close(out[rows], wanted, atol=EPSILON[dtype], rtol=EPSILON[dtype])
    assert torch.equal(state, expected)


@pytest.mark.parametrize("dtype", EPSILON, ids=str)
@pytest.mark.parametrize("taps", [2, 4])
def test_convolutions_of_single_tokens(taps: int, dtype: torch.dtype) -> None:
    rows, slots = index(3, 0, 2), index(1, 4, 0)
    x, weight = noise(4, 200, dtype=dtype)[:, :150], noise(taps, 150)
    state = noise(5, taps - 1, 150, dtype=dtype)
    expected = state.clone()
    wanted, expected[slots] = causal_conv(x[rows].unsqueeze(1), state[slots], weight)
    out = causal_conv_on_device(x, weight, state, rows, slots)
    torch.testing.assert_close(out, wanted.squeeze(1), atol=EPSILON[dtype], rtol=EPSILON[dtype])
    assert torch.equal(state, expected)


def split_heads(qkv: Tensor, key_heads: int, state: Tensor, tiled: bool) -> list[Tensor]:
    """qkv [..., C] → q, k [..., Hv, Dk] as the definition takes them, and v [..., Hv, Dv]."""
    _, value_heads, key_dim, value_dim = state.shape
    sizes = [key_heads * key_dim] * 2 + [value_heads * value_dim]
    q, k, v = (
        part.unflatten(-1, (heads, -1))
        for part, heads in zip(
            qkv.float().split(sizes, -1), (key_heads, key_heads, value_heads), strict=True
        )
    )
    each = value_heads // key_heads
    q, k = (repeat_heads(l2norm(part), each, tiled=tiled) for part in (q, k))
    return [q * key_dim**-0.5, k, v]


def test_rows_of_no_sequence() -> None:
    """As steps have them that are padded to a size: nothing of any state is read or changed."""
    x, weight, conv = noise(3, 80), noise(4, 80), noise(2, 3, 80)
    state, out, gates = noise(2, 2, 16, 24), noise(3, 2, 24), noise(3, 2, 2)
    before = conv.clone(), state.clone()
    places, constants = (index(0, 1, 2), index(-1, 1, -1)), (-noise(2).exp(), noise(2))
    mixed = causal_conv_on_device(x, weight, conv, *places)
    delta_step_on_device(mixed, gates, constants, places, state, out, tiled=False)
    assert not mixed[[0, 2]].any() and not out[[0, 2]].any()
    assert mixed[1].any() and out[1].any()
    assert torch.equal(conv[0], before[0][0]) and torch.equal(state[0], before[1][0])
    assert not torch.equal(state[1], before[1][1])


@pytest.mark.parametrize("dtype", EPSILON, ids=str)
@pytest.mark.parametrize("tiled", [False, True], ids=["grouped", "tiled"])
@pytest.mark.parametrize("dims", [(2, 4, 16, 16), (3, 3, 24, 40), (1, 6, 7, 3)], ids=str)
def test_steps(dims: tuple[int, int, int, int], tiled: bool, dtype: torch.dtype) -> None:
    key_heads, value_heads, key_dim, value_dim = dims
    channels = 2 * key_heads * key_dim + value_heads * value_dim
    rows, slots = index(4, 0, 3), index(1, 5, 2)
    qkv, gates = noise(3, channels, dtype=dtype), noise(5, 2, value_heads, dtype=dtype) * 3
    gates[0, :, 0], gates[3, :, -1], gates[4, :, 0] = 100, -100, -18
    rate, bias = -noise(value_heads).exp(), noise(value_heads)
    state = noise(6, value_heads, key_dim, value_dim)
    out = noise(5, value_heads, value_dim, dtype=dtype)
    wanted, expected = out.clone(), state.clone()
    b, a = gates[rows].float().unbind(1)
    g = rate * F.softplus(a + bias)
    parts = split_heads(qkv, key_heads, state, tiled)
    found, expected[slots] = delta_step(*parts, g, b.sigmoid(), state[slots])
    wanted[rows] = found.to(dtype)
    delta_step_on_device(qkv, gates, (rate, bias), (rows, slots), state, out, tiled=tiled)
    torch.testing.assert_close(state, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out, wanted, atol=EPSILON[dtype], rtol=EPSILON[dtype])


def as_projected(inputs: Inputs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """qkv [L, C], g and beta [L, H] and the state of one sequence, as the kernels take them."""
    q, k, v, g, beta, state = inputs
    flat = [part[0].flatten(1) for part in (q, k, v)]
    made = torch.cat(flat, -1), g[0], beta[0], state
    return tuple(part.to(DEVICE) for part in made)  # type: ignore[return-value]  # four of them


def run_chunked(inputs: Inputs, cuts: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """One sequence, in pieces that end at ``cuts``: all outputs and the last state."""
    qkv, g, beta, state = as_projected(inputs)
    states = torch.cat((torch.zeros_like(state), state))
    out = torch.full((len(qkv), *state.shape[1::2]), torch.nan, device=DEVICE)
    start = 0
    for end in (*cuts, len(qkv)):
        spans = Spans(index(start), index(1), index(end - start), end - start)
        chunked_on_device(qkv, (g, beta), spans, states, out, tiled=False)
        start = end
    assert not states[0].any()
    return out.unsqueeze(0).cpu(), states[1:].cpu()


@pytest.mark.parametrize(("length", "cuts"), [(2, ()), (64, ()), (65, (3,)), (130, (64, 100))])
def test_chunks_are_the_recurrence(length: int, cuts: tuple[int, ...]) -> None:
    inputs = random_inputs(1, length, 2, 16, seed=length)
    assert largest(run_chunked(inputs, cuts), recurrent_delta_rule(*inputs)) < 2e-4


@pytest.mark.parametrize(("period", "disturbed"), [(1, 0.01), (1, 0.0), (2, 0.0), (64, 0.0)])
def test_keys_that_repeat(period: int, disturbed: float) -> None:
    inputs = alike(patterns(period), 192, disturbed)
    assert largest(run_chunked(inputs, ()), recurrent_delta_rule(*inputs)) < 5e-3


@pytest.mark.parametrize("g", [0.0, -1e-30, -80.0, -1e4])
@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_gates_at_their_ends(g: float, beta: float) -> None:
    q, k, v, _, _, state = random_inputs(1, 70, 1, 16)
    inputs = q, k, v, torch.full((1, 70, 1), g), torch.full((1, 70, 1), beta), state
    assert largest(run_chunked(inputs, ()), recurrent_delta_rule(*inputs)) < 5e-3


@pytest.mark.parametrize("dtype", EPSILON, ids=str)
@pytest.mark.parametrize("tiled", [False, True], ids=["grouped", "tiled"])
def test_prompts_of_many_sequences(tiled: bool, dtype: torch.dtype) -> None:
    """Ragged ones, in any slots, between rows that belong to nobody."""
    lengths, slots, starts = [5, 66, 2], [2, 0, 3], [1, 6, 73]
    rows, dims = 76, (4, 20, 40)
    qkv, g = noise(rows, 2 * 2 * 20 + 4 * 40, dtype=dtype), -noise(rows, 4).abs()
    beta, state = noise(rows, 4, seed=1).sigmoid(), noise(4, *dims)
    out = noise(rows, 4, 40, dtype=dtype)
    wanted, expected = out.clone(), state.clone()
    parts = [*split_heads(qkv, 2, state, tiled), g, beta]
    for start, slot, length in zip(starts, slots, lengths, strict=True):
        own = [part[start : start + length].unsqueeze(0) for part in parts]
        found, last = recurrent_delta_rule(*own, state=state[slot : slot + 1])
        wanted[start : start + length], expected[slot] = found[0].to(dtype), last[0]
    spans = Spans(index(*starts), index(*slots), index(*lengths), 66)
    chunked_on_device(qkv, (g, beta), spans, state, out, tiled=tiled)
    torch.testing.assert_close(state, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(out, wanted, atol=EPSILON[dtype], rtol=EPSILON[dtype] * 10)


@pytest.mark.parametrize("dtype", EPSILON, ids=str)
@pytest.mark.parametrize(("heads", "size"), [(1, 16), (9, 40)])
def test_gated_norms(heads: int, size: int, dtype: torch.dtype) -> None:
    norm = GatedRMSNorm(size, 1e-6)
    norm.gain, norm.floor = norm_constants(noise(size, dtype=dtype), 1e-6)
    x, z = noise(3, heads, size, dtype=dtype), noise(3, 2 * heads * size, dtype=dtype)
    x[1] = 0
    z = z[:, heads * size :].view(3, heads, size) * 4
    expected = norm(x, z)
    ours = gated_norm_on_device(x, z, norm.gain, norm.floor)
    torch.testing.assert_close(ours, expected, atol=EPSILON[dtype], rtol=EPSILON[dtype])


def test_the_kernels_can_be_compiled() -> None:
    """Which forgives less than the interpreter does, and needs no GPU."""
    script = Path(__file__).with_name("compile_delta.py")
    found: Any = subprocess.run(
        [sys.executable, script, *ROOM],
        env={name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert found.returncode == 0, found.stderr
    asked = json.loads(found.stdout)
    assert len(asked) == 6 + 4 + 4
    for name, shared in asked.items():
        assert shared <= ROOM[name.split()[0]] << 10, name


@pytest.mark.gpu
def test_the_host_does_not_wait() -> None:
    state, out = noise(4, 4, 128, 128), noise(3, 4, 128)
    qkv, gates = noise(3, 4 * 128 + 4 * 128), noise(3, 2, 4)
    places, constants = (index(0, 2), index(3, 1)), (-noise(4).exp(), noise(4))
    weight, conv = noise(4, qkv.shape[1]), noise(4, 3, qkv.shape[1])

    def run() -> None:
        mixed = causal_conv_on_device(qkv, weight, conv, *places)
        delta_step_on_device(mixed, gates, constants, places, state, out, tiled=False)
        gated_norm_on_device(out, out, weight[0, :128], weight[0, 0])

    run()  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
