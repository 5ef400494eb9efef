"""Experts whose matrices stay as they are stored, against the sum written out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from helexa.engine.kernels.experts import Expert, experts_definition, tile_plan
from helexa.engine.kernels.stored_experts import MixedExperts
from helexa.engine.layers.experts import Experts
from helexa.engine.loading import resolve_numerics
from helexa.engine.quant.dense import DenseWeight
from helexa.engine.quant.on_device import stored_experts, with_kernels
from helexa.engine.quant.stack import stack
from helexa.engine.quant.weight import Weight
from tests.engine.kernels.stored import DEVICE, blocks, fp8, groups, random

pytest.importorskip("triton", reason="there is no triton for this machine")

EPSILON = {torch.float32: 4e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}
SIZE = 40
"""I, where formats allow it; others have blocks of 256 inputs."""

Make = Callable[[int, int, int], Weight]
"""Outputs, inputs and a seed → a weight."""


def block(name: str) -> Make:
    return lambda n, k, seed: with_kernels(blocks(name, n, k, seed))


def plain(n: int, k: int, seed: int) -> Weight:
    return DenseWeight((torch.randn(n, k, generator=random(seed)) / k**0.5).half().to(DEVICE))


def scaled(n: int, k: int, seed: int) -> Weight:
    return with_kernels(fp8(n, k, (16, 32), seed))


def grouped(n: int, k: int, seed: int) -> Weight:
    return with_kernels(groups(n, k, 8, seed=seed))


def ordered(n: int, k: int, seed: int) -> Weight:
    index = torch.randperm(k, generator=random(seed)) // 8
    return with_kernels(groups(n, k, 8, index=index, seed=seed))


FORMATS: dict[str, tuple[Make, Make, Make, int, int]] = {
    "Q4_K and Q6_K": (block("Q4_K"), block("Q4_K"), block("Q6_K"), 256, 256),
    "all different": (block("Q5_K"), block("Q8_0"), block("Q5_0"), 256, 32),
    "Q4_0": (block("Q4_0"), block("Q4_0"), block("Q4_0"), 64, 32),
    "fp8": (scaled, scaled, scaled, 48, SIZE),
    "AWQ": (grouped, grouped, grouped, 48, SIZE),
    "GPTQ in an order": (ordered, ordered, ordered, 48, SIZE),
    "half of it plain": (block("Q8_0"), plain, plain, 64, SIZE),
}
"""Formats of gate, up and down, H and I."""


def made(name: str, count: int) -> tuple[list[Expert], int]:
    """Experts of these formats, and H."""
    gate, up, down, hidden, size = FORMATS[name]
    return [
        Expert(
            stack([gate(size, hidden, 3 * e), up(size, hidden, 3 * e + 1)]),
            down(hidden, size, 3 * e + 2),
        )
        for e in range(count)
    ], hidden


def reference(experts: list[Expert]) -> list[Expert]:
    """The same experts with plain matrices, float32."""
    return [
        Expert(*(DenseWeight(w.matrix().float()) for w in (expert.gate_up, expert.down)))
        for expert in experts
    ]


def choose(tokens: int, experts: int, k: int) -> tuple[Tensor, Tensor]:
    """Experts and shares, [T, k] each, as a router gives them."""
    odds = torch.randn((tokens, experts), generator=random(tokens)).softmax(-1)
    shares, chosen = odds.topk(k, -1)
    return chosen.to(DEVICE), shares.to(DEVICE)


def run(experts: list[Expert], x: Tensor, chosen: Tensor, shares: Tensor) -> Tensor:
    from helexa.engine.kernels.stored_experts_triton import experts_as_stored

    stored = stored_experts(experts)
    assert stored is not None
    return experts_as_stored(x, chosen, shares.to(x.dtype), stored)


def wrong(found: Tensor, x: Tensor, chosen: Tensor, shares: Tensor, experts: list[Expert]) -> float:
    """How far the result is from the definition in float32, relative to it."""
    assert found.shape == x.shape
    assert found.dtype == x.dtype
    expected = experts_definition(x.float(), chosen, shares, reference(experts))
    return float((found.float() - expected).norm() / expected.norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("tokens", [1, 3, 18])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_matches(name: str, tokens: int, dtype: torch.dtype) -> None:
    """One token, whose pairs go by themselves; few; and enough for large tiles."""
    experts, hidden = made(name, 3)
    x = torch.randn(tokens, hidden, generator=random(tokens)).to(DEVICE, dtype)
    chosen, shares = choose(tokens, 3, 2)
    assert wrong(run(experts, x, chosen, shares), x, chosen, shares, experts) <= EPSILON[dtype]


@pytest.mark.parametrize("tokens", [1, 2])
def test_many_experts_and_few_tokens_go_pair_by_pair(tokens: int) -> None:
    """In bfloat16 as well, which only this way needs no matrix unit."""
    experts, hidden = made("Q4_0", 17)
    x = torch.randn(tokens, hidden, generator=random(tokens)).to(DEVICE, torch.bfloat16)
    chosen, shares = choose(tokens, 17, 2)
    assert wrong(run(experts, x, chosen, shares), x, chosen, shares, experts) <= 3e-2


@pytest.mark.parametrize("only", [0, 4])
def test_one_expert_may_get_all_and_others_none(only: int) -> None:
    experts, hidden = made("Q4_0", 5)
    x = torch.randn(19, hidden, device=DEVICE)
    chosen = torch.full((19, 1), only, device=DEVICE)
    shares = torch.linspace(-1, 1, 19, device=DEVICE)[:, None]
    assert wrong(run(experts, x, chosen, shares), x, chosen, shares, experts) <= 4e-6


def mixed(changed: str) -> tuple[list[Expert], int]:
    """Five experts, of which one or several are not stored like the others."""
    experts, hidden = made("GPTQ in an order", 5)
    first, third = experts[0], experts[2]
    if changed == "order":
        both = stack([grouped(SIZE, hidden, 90), grouped(SIZE, hidden, 91)])
        experts[2] = Expert(both, grouped(hidden, SIZE, 92))
    elif changed == "plain":
        experts[0] = Expert(plain(2 * SIZE, hidden, 90), plain(hidden, SIZE, 91))
    elif changed == "down":
        experts[2] = Expert(third.gate_up, scaled(hidden, SIZE, 92))
    else:
        experts[0] = Expert(first.gate_up, plain(hidden, SIZE, 91))
        experts[2] = Expert(scaled(2 * SIZE, hidden, 92), third.down)
    return experts, hidden


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("tokens", [1, 3, 18])
@pytest.mark.parametrize("changed", ["order", "plain", "down", "several"])
def test_experts_that_are_not_alike_are_run_by_kind(
    changed: str, tokens: int, dtype: torch.dtype
) -> None:
    experts, hidden = mixed(changed)
    stored = stored_experts(experts)
    assert isinstance(stored, MixedExperts)
    assert sum(kind.count for kind in stored.kinds) == 5
    x = torch.randn(tokens, hidden, generator=random(tokens)).to(DEVICE, dtype)
    chosen, shares = choose(tokens, 5, 2)
    assert wrong(run(experts, x, chosen, shares), x, chosen, shares, experts) <= EPSILON[dtype]


def test_the_plan_of_a_kind_is_made_without_reading_the_choice() -> None:
    """Tensors without values raise where one is read."""
    numbers, chosen = torch.empty((2, 5), dtype=torch.int64, device="meta"), choose(7, 5, 2)[0]
    for of_kind in numbers:
        order, tiles = tile_plan(of_kind[chosen.to("meta")], 3, 16)
        assert (order.shape, tiles.shape) == ((14,), (3, 3))


def test_a_choice_of_another_kind_is_in_no_tile() -> None:
    chosen = torch.tensor([[3, 0], [2, 3], [3, 3]])
    order, tiles = tile_plan(chosen, 3, 2)
    pairs = [
        (expert, order[at].item())
        for expert, first, end in tiles.tolist()
        for at in range(first, min(end, first + 2))
    ]
    assert pairs == [(0, 1), (2, 2)]


def test_what_kernels_cannot_read_is_left_to_others() -> None:
    experts, hidden = made("Q4_0", 3)
    experts[0] = Expert(experts[0].gate_up, blocks("Q4_0", hidden, 32))  # not for kernels
    assert stored_experts(experts) is None
    assert stored_experts(experts[1:]) is not None


def test_a_layer_runs_them() -> None:
    experts, hidden = made("AWQ", 3)
    layer = Experts(hidden, SIZE, 3, resolve_numerics("float32", DEVICE, False))
    layer.experts, layer.stored = tuple(experts), stored_experts(experts)
    x = torch.randn(5, hidden, device=DEVICE)
    chosen, shares = choose(5, 3, 2)
    assert torch.equal(layer(x, chosen, shares), run(experts, x, chosen, shares))
    layer.stored = None
    assert wrong(layer(x, chosen, shares), x, chosen, shares, experts) <= 4e-6


@pytest.mark.gpu
@pytest.mark.parametrize("tokens", [1, 9, 80])
@pytest.mark.parametrize("name", [*FORMATS, "several"])
def test_the_host_does_not_wait_for_the_choice(name: str, tokens: int) -> None:
    from helexa.engine.kernels.stored_experts_triton import experts_as_stored

    experts, hidden = made(name, 5) if name in FORMATS else mixed(name)
    stored: Any = stored_experts(experts)
    x = torch.randn(tokens, hidden, device=DEVICE).bfloat16()
    chosen, shares = choose(tokens, 5, 2)
    narrow = shares.to(x.dtype)
    experts_as_stored(x, chosen, narrow, stored)  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = experts_as_stored(x, chosen, narrow, stored)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert wrong(found, x, chosen, shares, experts) <= EPSILON[torch.bfloat16]
