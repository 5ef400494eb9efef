"""The parity harness must notice a model that is broken on purpose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from helexa.engine.batch import Batch, Span
from helexa.engine.loading import load_model
from helexa.engine.models.model import Model
from tests.engine.models.families import Family, Reference, prompt, run_chunks, worst

TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=["qwen3", "llama"])
def reference(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Reference:
    family = Family(request.param, request.param, {"num_hidden_layers": 2})
    return family.save(tmp_path_factory.mktemp(request.param))


@pytest.fixture
def model(reference: Reference) -> Model:
    """A fresh copy each, since the tests damage it."""
    return load_model(reference.folder, dtype="float32")


def norm_from_zero(model: Any) -> None:
    """The 1 + w of a zero-centred norm."""
    norm = model.layers[1].mlp_norm
    norm.gain = norm.gain + norm.size**0.5


def epsilon(model: Any) -> None:
    model.norm.floor = (model.norm.size * 1e-2) ** 0.5 + 0 * model.norm.floor


def frequencies(model: Any) -> None:
    model.rotary.frequencies = model.rotary.frequencies.roll(1)


def direction(model: Any) -> None:
    model.rotary.frequencies = -model.rotary.frequencies * 1.001


def tiled_heads(model: Any) -> None:
    """Query head h reads key head h mod G instead of ⌊h·G/H⌋."""
    for layer in model.layers:
        weight = layer.mixer.qkv.weight.tensor
        heads = weight[:128].view(2, 2, 32, 64)
        weight[:128] = heads.transpose(0, 1).reshape(128, 64).clone()


def gate_and_up(model: Any) -> None:
    weight = model.layers[0].mlp.gate_up.weight.tensor
    weight.copy_(weight.roll(128, 0))


def last_layer(model: Any) -> None:
    model.layers[1].mixer.out.weight.tensor.zero_()


DAMAGE: list[Callable[[Any], None]] = [
    norm_from_zero,
    epsilon,
    frequencies,
    direction,
    tiled_heads,
    gate_and_up,
    last_layer,
]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_damage_is_noticed(
    damage: Callable[[Any], None], model: Model, reference: Reference
) -> None:
    expected = reference.logits(prompt(96))
    assert worst(model.compute_logits(prompt(96)), expected) < TOLERANCE
    damage(model)
    assert worst(model.compute_logits(prompt(96)), expected) > 10 * TOLERANCE


@pytest.fixture(scope="module", params=[False, True], ids=["raw", "renormalised"])
def sparse(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """A mixture of experts."""
    fields = {"num_hidden_layers": 2, "norm_topk_prob": request.param}
    return Family("moe", "qwen3_moe", fields, seed=93).save(tmp_path_factory.mktemp("moe"))


def select_before_softmax(moe: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    scores, chosen = torch.nn.functional.linear(x, moe.router).topk(moe.top_k, -1)
    return chosen, scores.softmax(-1)


def toggle_renormalising(moe: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    moe.renormalise = not moe.renormalise
    routed: tuple[Tensor, Tensor] = type(moe).route(moe, x)
    moe.renormalise = not moe.renormalise
    return routed


def least_likely(moe: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    chosen, shares = type(moe).route(moe, x)
    return moe.count - 1 - chosen, shares


def shares_in_reverse(moe: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    chosen, shares = type(moe).route(moe, x)
    return chosen, shares.flip(-1)


ROUTES = [select_before_softmax, toggle_renormalising, least_likely, shares_in_reverse]


@pytest.mark.parametrize("damage", ROUTES, ids=lambda damage: damage.__name__)
def test_a_wrong_route_is_noticed(damage: Callable[..., Any], sparse: Reference) -> None:
    model: Any = load_model(sparse.folder, dtype="float32")
    expected = sparse.logits(prompt(96))
    assert worst(model.compute_logits(prompt(96)), expected) < TOLERANCE
    moe = model.layers[1].mlp
    moe.route = partial(damage, moe)
    difference = worst(model.compute_logits(prompt(96)), expected)
    if damage is select_before_softmax and moe.renormalise:
        assert difference < TOLERANCE  # the one case in which it is the same
    else:
        assert difference > 10 * TOLERANCE


@pytest.mark.parametrize("place", ["gate_up", "down"])
def test_exchanged_experts_are_noticed(place: str, sparse: Reference) -> None:
    model: Any = load_model(sparse.folder, dtype="float32")
    experts = model.layers[0].mlp.experts
    one, other = experts.experts[0], experts.experts[1]
    mixed = replace(one, **{place: getattr(other, place)})
    experts.experts = (mixed, *experts.experts[1:])
    expected = sparse.logits(prompt(96))
    assert worst(model.compute_logits(prompt(96)), expected) > 10 * TOLERANCE


def shift_positions(batch: Batch) -> Batch:
    """Positions that begin anew in every chunk."""
    start = batch.spans[0].context
    return Batch(
        batch.token_ids, batch.positions - start, batch.slots, batch.spans, batch.logit_rows
    )


def forget_context(batch: Batch) -> Batch:
    """Only the chunk itself is attended to."""
    span = batch.spans[0]
    spans = (Span(0, span.length, 0, span.blocks, batch.slots),)
    return Batch(batch.token_ids, batch.positions, batch.slots, spans, batch.logit_rows)


@pytest.mark.parametrize("damage", [shift_positions, forget_context])
def test_a_wrong_chunk_border_is_noticed(
    damage: Callable[[Batch], Batch], model: Model, reference: Reference
) -> None:
    class Damaged:
        """The model, given damaged batches."""

        batch, new_cache, logits = model.batch, model.new_cache, model.logits

        def __call__(self, batch: Batch, cache: Any) -> Tensor:
            return model(damage(batch), cache)

    expected, blocks = reference.logits(prompt(96)), list(range(6))
    assert worst(run_chunks(model, prompt(96), 32, blocks), expected) < TOLERANCE
    broken: Any = Damaged()
    assert worst(run_chunks(broken, prompt(96), 32, blocks), expected) > 10 * TOLERANCE


def test_nan_is_noticed() -> None:
    assert worst(torch.tensor([float("nan")]), torch.zeros(1)) == float("inf")
    assert worst(torch.zeros(2), torch.zeros(1)) == float("inf")


def test_weights_of_the_file_stay_whole(reference: Reference, tmp_path: Path) -> None:
    """Damage done to a loaded model does not reach the file it came from."""
    model: Any = load_model(reference.folder, dtype="float32")
    model.layers[0].mixer.out.weight.tensor.zero_()
    again = load_model(reference.folder, dtype="float32")
    assert worst(again.compute_logits(prompt(9)), reference.logits(prompt(9))) < TOLERANCE
