"""Sampled answers come as often with drafts as the model's own probabilities say."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from helexa.engine.ahead.launched import Onward
from helexa.engine.build import claim, describe
from helexa.engine.config import EngineConfig
from helexa.engine.core import EngineCore
from helexa.engine.drafting.drafts import MOST_ROWS
from helexa.engine.execution import TokenSampler
from helexa.engine.loading import load_model
from helexa.engine.memory import PoolSize
from helexa.engine.models.model import Model
from helexa.engine.outputs import DraftCounts, Request
from helexa.engine.params import GenerationDefaults, SamplingParams
from helexa.engine.runner import Runner
from helexa.engine.sampling import Sampled, Sampler, SampleRow
from tests.engine.drafting.knowing import Confident, Tick
from tests.engine.models.families import Family, Reference

SAID = (11, 23, 42)
"""All that an answer is made of: a bias rules out the rest."""
BIAS = 60.0
LENGTH = 7
WINDOW = 3
PROMPT = (*SAID, *SAID, 11, 23)
SAMPLES = 800
SIZE = PoolSize(num_blocks=160, budget_blocks=128, budget_mb=0, snapshots=0)
Answer = tuple[int, ...]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    family = Family("qwen3", fields={"num_hidden_layers": 1, "tie_word_embeddings": False})
    return family.save(tmp_path_factory.mktemp("distribution"))


@pytest.fixture(scope="module")
def model(reference: Reference) -> Model:
    return load_model(reference.folder, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def chances(reference: Reference) -> dict[Answer, float]:
    """How likely each answer is: transformers' logits of all 3^7 of them, in float64."""
    paths = list(itertools.product(SAID, repeat=LENGTH))
    ids = torch.tensor([PROMPT + path for path in paths])
    with torch.no_grad():
        logits = torch.cat([reference.model(part).logits for part in ids.split(512)]).double()
    bias = torch.zeros(logits.shape[-1], dtype=torch.float64).index_fill(
        0, torch.tensor(SAID), BIAS
    )
    steps = (logits[:, len(PROMPT) - 1 : -1] + bias).log_softmax(-1)
    each = steps.gather(-1, ids[:, len(PROMPT) :, None]).sum((-1, -2)).exp()
    return dict(zip(paths, each.tolist(), strict=True))


class Gullible:
    """A sampler that believes drafts: where one goes on with a token, that is what it draws."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def sample(
        self, logits: Tensor, rows: Sequence[SampleRow], onward: Onward | None = None
    ) -> list[Sampled]:
        drawn = self._sampler.sample(logits, rows, onward)
        for index, (row, after) in enumerate(itertools.pairwise(rows)):
            if after.params is row.params:
                drawn[index] = replace(drawn[index], token_id=after.generated[-1])
        return drawn


def sampled(
    model: Model, seeds: range, *, speculative: bool, gullible: bool = False
) -> tuple[list[Answer], DraftCounts]:
    """An answer for each seed, some of them at a time; what became of their drafts."""
    rows = MOST_ROWS if speculative else 20
    config = EngineConfig(block_size=4, drafter="lookup", max_batch=rows)
    spec = describe(model, SIZE, config, GenerationDefaults(), frozenset())
    sampler: TokenSampler = Sampler(spec.vocab_size)
    if gullible:
        sampler = Gullible(Sampler(spec.vocab_size))
    core = EngineCore(
        Runner(model, claim(model, SIZE, config)),
        sampler,
        spec,
        config,
        Tick(),
        drafter=Confident(),
    )
    found: dict[int, Answer] = {}
    for seed in seeds:
        params = SamplingParams(
            temperature=1.0,
            seed=seed,
            max_tokens=LENGTH,
            logit_bias=dict.fromkeys(SAID, BIAS),
            speculative=speculative,
        )
        found[core.submit(Request(PROMPT, params))] = ()
        while len(found) % rows == 0 and not core.idle:
            for output in core.step():
                found[output.id] += output.token_ids
    return list(found.values()), core.status().drafts


def distance(answers: Sequence[Answer], chances: Mapping[Answer, float], start: int) -> float:
    """Pearson's statistic of three tokens together, those from ``start`` on, over what is allowed.

    Allowed is what chance exceeds once in 30 000 times: Wilson, Hilferty, PNAS 17 (1931), at four
    standard deviations.
    """
    end = start + WINDOW
    expected: Counter[Answer] = Counter()
    for answer, chance in chances.items():
        expected[answer[start:end]] += chance * len(answers)  # type: ignore[assignment]  # not whole
    seen = Counter(answer[start:end] for answer in answers)
    assert seen.keys() <= expected.keys()
    statistic = sum((seen[cell] - mean) ** 2 / mean for cell, mean in expected.items())
    freedom = len(expected) - 1
    spread = 2 / (9 * freedom)
    return float(statistic / (freedom * (1 - spread + 4 * math.sqrt(spread)) ** 3))


def distances(answers: Sequence[Answer], chances: Mapping[Answer, float]) -> list[float]:
    """At each place of an answer; above 1 is too far."""
    return [distance(answers, chances, start) for start in range(LENGTH - WINDOW + 1)]


def test_chances_are_what_they_are_called(chances: Mapping[Answer, float]) -> None:
    assert len(chances) == len(SAID) ** LENGTH
    assert sum(chances.values()) == pytest.approx(1.0, abs=1e-9)
    assert max(chances.values()) > 4 * sum(chances.values()) / len(chances)  # not all alike


def test_answers_keep_their_distribution(model: Model, chances: Mapping[Answer, float]) -> None:
    """With other seeds in each case, as the same ones give the same answers."""
    plain, none = sampled(model, range(SAMPLES), speculative=False)
    assert none == DraftCounts()
    assert max(distances(plain, chances)) < 1
    drafted, counts = sampled(model, range(SAMPLES, 2 * SAMPLES), speculative=True)
    assert counts.accepted > SAMPLES / 4
    assert counts.drafted - counts.accepted > SAMPLES / 4
    assert max(distances(drafted, chances)) < 1
    assert drafted != plain


def test_believing_drafts_would_show(model: Model, chances: Mapping[Answer, float]) -> None:
    """What the test above would say of an engine that takes drafts for answers."""
    believed, counts = sampled(model, range(240), speculative=True, gullible=True)
    assert counts.accepted == counts.drafted > 0
    assert max(distances(believed, chances)) > 2
