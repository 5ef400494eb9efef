"""Ways of running the chosen experts, against the sum written out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from helexa.engine.graphs import waits_noticed
from helexa.engine.kernels.experts import (
    Expert,
    experts_definition,
    experts_grouped,
    experts_masked,
    tile_plan,
)
from helexa.engine.layers.experts import operator_of
from helexa.engine.loading import resolve_numerics
from helexa.engine.quant.dense import DenseWeight
from helexa.engine.quant.dense_stack import DenseStack
from helexa.engine.quant.stack import StackedWeight
from helexa.engine.quant.weight import Weight
from tests.engine.kernels import stored

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
EPSILON = {torch.float32: 2**-20, torch.float16: 2**-9, torch.bfloat16: 2**-6}


def draw(
    tokens: int, hidden: int, size: int, experts: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Activations [T, H], gate_up [E, 2I, H] and down [E, H, I]."""
    generator = torch.Generator().manual_seed(tokens + hidden + size + experts)
    shapes = (tokens, hidden), (experts, 2 * size, hidden), (experts, hidden, size)
    drawn = (torch.randn(shape, generator=generator) for shape in shapes)
    x, gate_up, down = (tensor.to(DEVICE, dtype) for tensor in drawn)
    return x, gate_up / hidden**0.5, down / size**0.5


def choose(tokens: int, experts: int, k: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Experts and shares, [T, k] each, as a router gives them."""
    generator = torch.Generator().manual_seed(tokens)
    odds = torch.randn((tokens, experts), generator=generator).softmax(-1)
    shares, chosen = odds.topk(k, -1)
    return chosen.to(DEVICE), shares.to(DEVICE, dtype)


def separate(gate_up: Tensor, down: Tensor) -> list[Expert]:
    pairs = zip(gate_up, down, strict=True)
    return [Expert(DenseWeight(first), DenseWeight(second)) for first, second in pairs]


def close(ours: Tensor, expected: Tensor) -> bool:
    scale = expected.abs().amax().float()
    error = (ours.float() - expected.float()).abs().amax()
    return ours.dtype == expected.dtype and bool(error <= EPSILON[ours.dtype] * scale)


@pytest.mark.parametrize("dtype", EPSILON, ids=str)
@pytest.mark.parametrize("tokens", [1, 2, 33])
@pytest.mark.parametrize(("experts", "k"), [(1, 1), (7, 3), (5, 5), (300, 2)])
def test_grouping_changes_nothing(experts: int, k: int, tokens: int, dtype: torch.dtype) -> None:
    x, gate_up, down = draw(tokens, 24, 9, experts, dtype)
    run, chosen = separate(gate_up, down), choose(tokens, experts, k, dtype)
    assert close(experts_grouped(x, *chosen, run), experts_definition(x, *chosen, run))


@pytest.mark.parametrize("only", [0, 4])
def test_one_expert_may_get_all_and_others_none(only: int) -> None:
    x, gate_up, down = draw(19, 16, 8, 5, torch.float32)
    chosen = torch.full((19, 1), only, device=DEVICE)
    shares = torch.linspace(-1, 1, 19, device=DEVICE)[:, None]
    run = separate(gate_up, down)
    ours = experts_grouped(x, chosen, shares, run)
    assert close(ours, shares * run[only](x))
    assert close(ours, experts_definition(x, chosen, shares, run))


def test_only_the_chosen_experts_run() -> None:
    """A matrix that nobody chose is not read."""

    class Unread:
        nbytes, shape = 0, (0, 0)

        def matrix(self) -> Tensor:
            raise AssertionError("read")

        def matmul(self, x: Tensor) -> Tensor:
            raise AssertionError("read")

    x, gate_up, down = draw(3, 16, 8, 4, torch.float32)
    run = separate(gate_up, down)
    run[1] = Expert(Unread(), Unread())
    chosen = torch.tensor([[3, 0], [2, 3], [0, 2]], device=DEVICE)
    for rows in (1, 3):
        out = experts_grouped(x[:rows], chosen[:rows], torch.ones(rows, 2, device=DEVICE), run)
        assert out.isfinite().all()


CHOICES = st.integers(1, 9).flatmap(
    lambda experts: st.tuples(
        st.just(experts),
        st.integers(1, experts).flatmap(
            lambda k: st.lists(
                st.permutations(range(experts)).map(lambda order: order[:k]),
                min_size=1,
                max_size=40,
            )
        ),
    )
)


@given(CHOICES, st.sampled_from([1, 2, 16]))
def test_tiles_hold_every_pair_once_under_its_expert(
    drawn: tuple[int, list[list[int]]], rows: int
) -> None:
    experts, choice = drawn
    chosen = torch.tensor(choice, device=DEVICE)
    order, tiles = tile_plan(chosen, experts, rows)
    seen: list[int] = []
    for expert, first, end in tiles.tolist():
        pairs = order[first : min(end, first + rows)].tolist() if first < end else []
        assert {int(chosen.flatten()[pair]) for pair in pairs} <= {expert}
        seen += pairs
    assert sorted(seen) == list(range(chosen.numel()))


def test_a_stack_keeps_what_was_made_in_one_tensor() -> None:
    plain = resolve_numerics("float32", torch.device("cpu"), False).plain
    stack = DenseStack((2, 5, 5), plain)
    parts = [torch.randn(3, 5).half(), torch.randn(2, 5).half()]
    first = stack.make(parts)
    assert stack.whole is None
    second = stack.make([torch.ones(5, 5)])
    assert stack.whole is not None
    assert torch.equal(stack.whole[0], torch.cat(parts).float())
    assert torch.equal(stack.whole, torch.stack((first.matrix(), second.matrix())))


def test_a_stack_of_which_some_is_stored_in_another_format_is_never_whole() -> None:
    """A layer's gate plain and its up in FP8: what is made are halves of entries."""
    stack = DenseStack((2, 4, 5), resolve_numerics("float32", torch.device("cpu"), False).plain)
    half, all = torch.randn(2, 5), torch.randn(4, 5)
    for _ in range(2):
        assert torch.equal(stack.make([half]).matrix(), half)
        assert stack.whole is None
    made = [stack.make([all]) for _ in range(2)]
    assert stack.whole is not None
    assert torch.equal(stack.whole, torch.stack([weight.matrix() for weight in made]))


@pytest.fixture(scope="module")
def on_device() -> Callable[..., Tensor]:
    """The kernels, on a GPU, or interpreted on a CPU."""
    pytest.importorskip("triton", reason="there is no triton for this machine")
    from helexa.engine.kernels.experts_triton import experts_on_device

    return experts_on_device


SIZES = [(1, 64, 32, 16, 4), (3, 96, 40, 6, 2), (2, 33, 7, 3, 3), (130, 64, 72, 4, 2)]


@pytest.mark.parametrize("dtype", EPSILON, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_kernels_match(size: tuple[int, ...], dtype: torch.dtype, on_device: Any) -> None:
    if DEVICE == "cpu" and dtype == torch.bfloat16:
        pytest.skip("triton's interpreter multiplies the bits of bfloat16, not its values")
    tokens, hidden, middle, experts, k = size
    x, gate_up, down = draw(tokens, hidden, middle, experts, dtype)
    chosen = choose(tokens, experts, k, dtype)
    expected = experts_definition(x, *chosen, separate(gate_up, down))
    assert close(on_device(x, *chosen, gate_up, down), expected)


@pytest.mark.parametrize("only", [0, 4])
def test_the_kernels_take_any_choice(only: int, on_device: Any) -> None:
    x, gate_up, down = draw(70, 40, 24, 5, torch.float32)
    chosen = torch.full((70, 1), only, device=DEVICE)
    shares = torch.linspace(-1, 1, 70, device=DEVICE)[:, None]
    expected = shares * separate(gate_up, down)[only](x)
    assert close(on_device(x, chosen, shares, gate_up, down), expected)


@pytest.mark.gpu
def test_the_host_does_not_wait_for_the_choice(on_device: Any) -> None:
    x, gate_up, down = draw(9, 64, 32, 16, torch.bfloat16)
    chosen, shares = choose(9, 16, 4, torch.bfloat16)
    on_device(x, chosen, shares, gate_up, down)  # compiles
    with waits_noticed("error"):
        on_device(x, chosen, shares, gate_up, down)


@pytest.mark.parametrize("dtype", EPSILON, ids=str)
@pytest.mark.parametrize("tokens", [1, 2, 33])
@pytest.mark.parametrize(("experts", "k"), [(1, 1), (7, 3), (5, 5)])
def test_masking_changes_nothing(experts: int, k: int, tokens: int, dtype: torch.dtype) -> None:
    x, gate_up, down = draw(tokens, 24, 40, experts, dtype)
    chosen, shares = choose(tokens, experts, k, dtype)
    made = separate(gate_up, down)
    expected = experts_definition(x, chosen, shares, made)
    assert close(experts_masked(x, chosen, shares, made), expected)


def test_what_was_not_chosen_may_be_infinite() -> None:
    x, gate_up, down = draw(3, 24, 40, 2, torch.float16)
    made = separate(gate_up, torch.stack([down[0], torch.full_like(down[1], 60000)]))
    chosen, shares = torch.zeros((3, 1), dtype=torch.int64, device=DEVICE), x.new_ones((3, 1))
    expected = experts_definition(x, chosen, shares, made)
    assert close(experts_masked(x, chosen, shares, made), expected)


WITHOUT_KERNELS: dict[str, Callable[[], Weight]] = {
    "plain": lambda: DenseWeight(torch.randn(256, 256)),
    "blocks": lambda: stored.blocks("Q4_K", 256, 256),
    "fp8": lambda: stored.fp8(256, 256, (128, 128)),
    "groups": lambda: stored.groups(256, 256, 32),
    "ordered": lambda: stored.groups(256, 256, 32, index=torch.randperm(256) // 32),
}


@pytest.mark.parametrize("format", WITHOUT_KERNELS)
def test_masked_experts_read_no_choice(format: str) -> None:
    """Tensors without values raise where one is read; they are multiplied as on a GPU."""
    x, chosen, shares = (
        tensor.to("meta") for tensor in (torch.randn(5, 256), *choose(5, 3, 2, torch.float32))
    )
    weights = [without_values(WITHOUT_KERNELS[format]()) for _ in range(6)]
    gate_up = [StackedWeight((first, first)) for first in weights[:3]]
    made = [Expert(first, second) for first, second in zip(gate_up, weights[3:], strict=True)]
    assert experts_masked(x, chosen, shares, made).shape == x.shape
    with pytest.raises((RuntimeError, NotImplementedError)):
        experts_grouped(x, chosen, shares, made)


def without_values(weight: Any) -> Weight:
    """The same weight with nothing in its tensors."""
    values = {f.name: getattr(weight, f.name) for f in dataclasses.fields(weight)}
    empty = {name: v.to("meta") for name, v in values.items() if isinstance(v, Tensor)}
    found: Weight = dataclasses.replace(weight, **empty)
    return found


def test_where_experts_are_masked() -> None:
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert operator_of(resolve_numerics("float16", gpu, True)) is experts_masked
    assert operator_of(resolve_numerics("float32", cpu, True)) is experts_grouped
    disabled = resolve_numerics("float16", gpu, True, ["moe_fused"])
    assert operator_of(disabled) is experts_definition
