"""The gated delta rule against its reference, and every fast path against the definition."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from transformers.models.qwen3_next.modeling_qwen3_next import torch_recurrent_gated_delta_rule

from helexa.engine.kernels.causal_conv import causal_conv
from helexa.engine.kernels.delta_rule import (
    chunked_delta_rule,
    delta_step,
    delta_step_in_place,
    recurrent_delta_rule,
)
from helexa.engine.layers.delta import l2norm, repeat_heads

LENGTHS = (1, 2, 63, 64, 65, 127, 128, 129, 511, 512, 513)
Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def finish(keys: Tensor, g: Tensor, beta: Tensor, *, seed: int) -> Inputs:
    """Everything the rule needs, from keys [B, L, H, D] and g, beta [B, L, H]."""
    noise = torch.Generator().manual_seed(seed)
    batch, length, heads, dim = keys.shape
    v = torch.randn(batch, length, heads, dim, generator=noise)
    q = l2norm(torch.randn(keys.shape, generator=noise)) * dim**-0.5
    state = torch.randn(batch, heads, dim, dim, generator=noise)
    return q, l2norm(keys), v, g, beta, state


def random_inputs(batch: int, length: int, heads: int, dim: int, seed: int = 0) -> Inputs:
    noise = torch.Generator().manual_seed(seed)
    shape = (batch, length, heads)
    keys = torch.randn(*shape, dim, generator=noise)
    g = -torch.rand(shape, generator=noise) * 2
    return finish(keys, g, torch.rand(shape, generator=noise), seed=seed)


def alike(pattern: Tensor, length: int, noise: float = 0.0) -> Inputs:
    """Keys that repeat a pattern [P, H, D]; almost nothing is forgotten, all is corrected."""
    chance = torch.Generator().manual_seed(5)
    times = math.ceil(length / len(pattern))
    keys = pattern.repeat(times, 1, 1)[:length].unsqueeze(0)
    keys = keys + noise * torch.randn(keys.shape, generator=chance)
    shape = keys.shape[:3]
    beta = 0.98 + 0.019 * torch.rand(shape, generator=chance)
    return finish(keys, -1e-3 * torch.rand(shape, generator=chance), beta, seed=6)


def patterns(size: int) -> Tensor:
    return torch.randn(size, 2, 16, generator=torch.Generator().manual_seed(7))


def largest(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> float:
    """The largest difference; infinite if anything is not finite."""
    if not all(part.isfinite().all() for part in ours):
        return math.inf
    return max((a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(("batch", "length"), [(1, 128), (3, 7)])
def test_the_definition_is_the_references(batch: int, length: int) -> None:
    q, k, v, g, beta, state = random_inputs(batch, length, 3, 16)
    ours = recurrent_delta_rule(q, k, v, g, beta, state)
    theirs = torch_recurrent_gated_delta_rule(
        *(q * 4, k, v), g=g, beta=beta, initial_state=state, output_final_state=True
    )  # the reference scales the queries itself
    assert largest(ours, theirs) < 1e-5


@pytest.mark.parametrize("length", LENGTHS)
def test_e002_chunks_are_the_recurrence(length: int) -> None:
    inputs = random_inputs(1, length, 2, 16, seed=length)
    assert largest(chunked_delta_rule(*inputs), recurrent_delta_rule(*inputs)) < 2e-4


@pytest.mark.parametrize("cut", [1, 50, 64, 100])
def test_e002_chunks_go_on_from_a_state(cut: int) -> None:
    *inputs, state = random_inputs(1, 178, 2, 16)
    first = recurrent_delta_rule(*(x[:, :cut] for x in inputs), state)
    second = chunked_delta_rule(*(x[:, cut:] for x in inputs), first[1])
    whole = recurrent_delta_rule(*inputs, state)
    assert largest(second, (whole[0][:, cut:], whole[1])) < 2e-4


@pytest.mark.parametrize("length", [192, 512])
@pytest.mark.parametrize(("period", "noise"), [(1, 0.01), (1, 0.0), (2, 0.0), (64, 0.0)])
def test_e003_keys_that_repeat(period: int, noise: float, length: int) -> None:
    """Where an inverse made of powers explodes."""
    inputs = alike(patterns(period), length, noise)
    assert largest(chunked_delta_rule(*inputs), recurrent_delta_rule(*inputs)) < 5e-3


@pytest.mark.parametrize("g", [0.0, -1e-30, -80.0, -1e4])
@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_gates_at_their_ends(g: float, beta: float) -> None:
    q, k, v, _, _, state = random_inputs(1, 130, 2, 16)
    gates = torch.full((1, 130, 2), g), torch.full((1, 130, 2), beta)
    ours = chunked_delta_rule(q, k, v, *gates, state)
    assert largest(ours, recurrent_delta_rule(q, k, v, *gates, state)) < 5e-3


def test_a_step_in_place_is_a_step() -> None:
    q, k, v, g, beta, state = random_inputs(5, 1, 3, 16)
    step = [x[:, 0] for x in (q, k, v, g, beta)]
    expected = delta_step(*step, state)
    held = torch.cat((state, state))  # a view of it is changed
    out = delta_step_in_place(*step, held[5:])
    assert largest((out, held[5:]), expected) < 1e-5
    assert torch.equal(held[:5], state)


def test_e006_small_operators() -> None:
    x = torch.tensor([0.0, 30.0])
    assert F.softplus(x).tolist() == pytest.approx([math.log(2), 30.0])
    assert l2norm(torch.tensor([3.0, 4.0])).tolist() == pytest.approx([0.6, 0.8])
    assert l2norm(torch.zeros(2)).tolist() == [0.0, 0.0]
    heads = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    grouped = repeat_heads(heads, 2, tiled=False)
    assert grouped.tolist() == [[1, 2], [1, 2], [3, 4], [3, 4]]
    assert repeat_heads(heads, 2, tiled=True).tolist() == [[1, 2], [3, 4], [1, 2], [3, 4]]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(2, 5))
def test_e005_a_convolution_in_pieces_is_one_in_whole(pieces: list[int], kernel: int) -> None:
    """Whatever the pieces, also those that are shorter than the kernel."""
    noise = torch.Generator().manual_seed(1)
    x = torch.randn(sum(pieces), 3, generator=noise)
    weight = torch.randn(kernel, 3, generator=noise)
    before, outputs = torch.zeros(kernel - 1, 3), []
    for piece in x.split(pieces):
        out, before = causal_conv(piece, before, weight)
        outputs.append(out)
    padded = F.pad(x.t().unsqueeze(0), (kernel - 1, 0))
    whole = F.silu(F.conv1d(padded, weight.t().unsqueeze(1), groups=3))[0].t()
    torch.testing.assert_close(torch.cat(outputs), whole, atol=1e-6, rtol=1e-5)
    assert torch.equal(before, F.pad(x, (0, 0, kernel - 1, 0))[-(kernel - 1) :])
