"""Every architecture, with all fast paths of a GPU and without each: what it says is unchanged.

The reference is transformers' eager model in float32. Without a GPU kernels are interpreted, which
takes long: models, prompts and answers are as small as they may be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from helexa.engine.cache.kv import KVCache
from helexa.engine.graphs import DecodeGraphs
from helexa.engine.models.model import Model
from tests.engine.models.families import Family, cosine, worst
from tests.engine.models.interpreted import interpreted
from tests.engine.models.switched import (
    ARCHITECTURES,
    CLEAR_IN_16_BITS,
    ON_DEVICES,
    RECURRENT,
    ROUTED,
    TOLERANCE,
    Expected,
    logits,
    looks_at,
    quantised,
    says,
)
from tests.engine.test_graphs import Again

pytest.importorskip("triton", reason="there is no triton for this machine")

SMALL: dict[str, Any] = {
    **{"vocab_size": 16, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1},
    **{"num_attention_heads": 2, "num_key_value_heads": 1},
}
SMALL_DELTA = {"num_hidden_layers": 2, "linear_num_key_heads": 1, "linear_num_value_heads": 2}
SMALL_EXPERTS = {
    **{"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
}
SEEDS = {
    **{"llama": 125, "qwen3": 107, "qwen3_moe": 102},
    **{"qwen3_5": 92, "qwen3_5_moe": 94, "qwen3_next": 92},
}
"""Rounding does not choose (see `Expected.clear`), not even that of 16 bits."""
PROMPTS = [[3, 10, 1], [7, 2, 12, 12, 5, 0, 9, 14]]
STOPS = (6,)
COUNT = 8
OFF = [
    (name, switch)
    for name in ("qwen3", "qwen3_5_moe")  # which have everything that the others have
    for switch in (*looks_at(name), *ON_DEVICES)
    if switch not in ("cuda_graphs", "look_ahead")  # nothing is recorded for logits of prompts
]


def small(name: str) -> Family:
    """The smallest model of an architecture."""
    family = ARCHITECTURES[name]
    delta = SMALL_DELTA if name in RECURRENT else {}
    experts = SMALL_EXPERTS if name in ROUTED else {}
    return replace(family, fields={**family.fields, **SMALL, **delta, **experts}, seed=SEEDS[name])


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Expected]:
    """What the reference says, its weights as they are or in a format; made when first asked."""

    @cache
    def made(name: str, format: str | None = None) -> Expected:
        reference = small(name).save(tmp_path_factory.mktemp(name))
        if format is not None:
            reference = quantised(reference, format)
        return Expected(reference, PROMPTS, COUNT)

    return made


class Recording:
    """Graphs of one or two sequences, by a recorder that does the work again."""

    def __init__(self, model: Model) -> None:
        self.model, self.recorder = model, Again()

    def __call__(self, cache: KVCache) -> DecodeGraphs:
        return DecodeGraphs(self.model, cache, self.recorder, (1, 2))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_rounding_chooses_nothing(name: str, expected: Callable) -> None:
    ahead, chosen = expected(name).clear()
    assert ahead > CLEAR_IN_16_BITS / 2
    assert chosen > CLEAR_IN_16_BITS / 2


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_all_fast_paths(name: str, expected: Callable) -> None:
    """The logits are not those of recorded steps, the answers are."""
    wanted = expected(name)
    model = interpreted(wanted.folder)
    found = logits(model, wanted.prompts[-1], STOPS).cpu()
    assert worst(found, wanted.logits) < TOLERANCE[name]
    assert cosine(found, wanted.logits) > 0.9999
    graphs = Recording(model)
    assert says(model, wanted.prompts, graphs=graphs, count=COUNT).tokens == wanted.answers
    assert graphs.recorder.replayed > 0


@pytest.mark.parametrize("name", ["qwen3", "qwen3_moe", "qwen3_5"])
@pytest.mark.parametrize("switch", [None, "look_ahead"])
def test_steps_ahead(name: str, switch: str | None, expected: Callable) -> None:
    """Those of a model without states, where nothing may have a draft."""
    wanted = expected(name)
    model = interpreted(wanted.folder, *([switch] if switch is not None else []))
    said = says(model, wanted.prompts, graphs=Recording(model), drafts=False, count=COUNT)
    assert said.tokens == wanted.answers
    assert (said.ahead > 0) == (switch is None and name not in RECURRENT)


@pytest.mark.parametrize(("name", "switch"), OFF)
def test_each_switch(name: str, switch: str, expected: Callable) -> None:
    wanted = expected(name)
    found = logits(interpreted(wanted.folder, switch), wanted.prompts[-1], STOPS).cpu()
    assert worst(found, wanted.logits) < TOLERANCE[name]
    assert found.argmax(-1)[-1] == wanted.answers[-1][0]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_16_bits(name: str, expected: Callable) -> None:
    wanted = expected(name)
    model = interpreted(wanted.folder, dtype="float16")
    assert wanted.stays_close(logits(model, wanted.prompts[-1], STOPS).cpu())


@pytest.mark.parametrize("switch", [None, "quant_kernels"])
@pytest.mark.parametrize("name", ["qwen3", "qwen3_5_moe"])
def test_quantised_weights(name: str, switch: str | None, expected: Callable) -> None:
    """The reference has the numbers that these weights stand for."""
    wanted, off = expected(name, "q8_0"), [switch] if switch is not None else []
    model = interpreted(wanted.folder, *off, quant="q8_0")
    found = logits(model, wanted.prompts[-1], STOPS).cpu()
    assert worst(found, wanted.logits) < TOLERANCE[name]
