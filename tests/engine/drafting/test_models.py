"""Every architecture says the same with drafts: greedy and seeded, alone and in a crowd."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from helexa.engine.build import build_core, claim, describe, plan_pool
from helexa.engine.config import EngineConfig
from helexa.engine.core import EngineCore
from helexa.engine.drafting import costs
from helexa.engine.drafting.drafter import Drafter
from helexa.engine.loading import load_model
from helexa.engine.memory import PoolSize
from helexa.engine.models.model import Model
from helexa.engine.outputs import DraftCounts, Request
from helexa.engine.params import GenerationDefaults, SamplingParams
from helexa.engine.runner import Runner
from helexa.engine.sampling import Sampler
from tests.engine.drafting.knowing import Knowing, Tick
from tests.engine.models.families import Family, hybrid

END = 7
VOCAB = 512
FEW = {"num_hidden_layers": 2, "eos_token_id": END}
FAMILIES = {
    "llama": Family("llama", "llama", FEW),
    "qwen3": Family("qwen3", fields=FEW),
    "qwen3_moe": Family("qwen3_moe", "qwen3_moe", FEW),
    "qwen3_next": hybrid("qwen3_next", "qwen3_next", num_hidden_layers=4, eos_token_id=END),
    "qwen3_5": hybrid("qwen3_5", num_hidden_layers=4, eos_token_id=END),
    "qwen3_5_moe": hybrid("qwen3_5_moe", "qwen3_5_moe", num_hidden_layers=4, eos_token_id=END),
}
LARGE = PoolSize(num_blocks=1000, budget_blocks=900, budget_mb=0, snapshots=8)
SMALL = PoolSize(num_blocks=46, budget_blocks=40, budget_mb=0, snapshots=3)
HEADERS = frozenset(range(40))
"""Ids that may begin a message: recurrent models are continued behind them."""
Answers = list[tuple[list[int], str | None]]


@pytest.fixture(autouse=True)
def looks_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each token is looked at, so that there are drafts of all kinds."""
    monkeypatch.setattr(costs, "LONGEST_REST", 0)


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    made = FAMILIES[request.param].save(tmp_path_factory.mktemp("drafts"))
    return load_model(made.folder, device="cpu", dtype="float32")


def core_of(
    model: Model, size: PoolSize, guesses: Drafter | None = None, **config: object
) -> EngineCore:
    settings = EngineConfig(**{"block_size": 4, "drafter": "lookup", **config})  # type: ignore[arg-type]  # any field
    spec = describe(model, size, settings, GenerationDefaults(), frozenset({END}))
    spec = replace(spec, header_ids=HEADERS)
    runner = Runner(model, claim(model, size, settings))
    return EngineCore(runner, Sampler(spec.vocab_size), spec, settings, Tick(), drafter=guesses)


def requests(count: int, *, speculative: bool) -> list[Request]:
    """Texts that repeat themselves; every other answer is made of a few tokens, so it does, too."""
    chance = random.Random(23)
    system = [chance.randrange(VOCAB) for _ in range(24)]
    made = []
    for number in range(count):
        piece = [chance.randrange(VOCAB) for _ in range(chance.randint(2, 9))]
        params = SamplingParams(
            max_tokens=chance.randint(20, 70),
            temperature=(0.0, 0.05, 1.0)[number % 3],
            top_k=chance.choice([0, 4]),
            seed=number,
            repetition_penalty=chance.choice([1.0, 1.0, 1.1]),
            min_tokens=10,
            logit_bias=dict.fromkeys(piece[:5], 30.0) if number % 2 else {},
            speculative=speculative,
        )
        made.append(Request((*system[: chance.choice([0, 24])], *(piece * 4)), params))
    return made


def answers(core: EngineCore, asked: list[Request], pauses: random.Random | None) -> Answers:
    """What each gets, one after the other or with some steps between their arrivals."""
    found: dict[int, tuple[list[int], str | None]] = {}

    def step() -> None:
        for output in core.step():
            assert output.error is None
            found[output.id][0].extend(output.token_ids)
            found[output.id] = (found[output.id][0], output.finish_reason)

    for request in asked:
        found[core.submit(request)] = ([], None)
        while pauses is None and not core.idle:
            step()
        for _ in range(pauses.randrange(6) if pauses is not None else 0):
            step()
    while not core.idle:
        step()
    return list(found.values())


@pytest.fixture(scope="module")
def expected(model: Model) -> Answers:
    core = core_of(model, LARGE, prefix_cache=False)
    found = answers(core, requests(18, speculative=False), None)
    assert core.status().drafts == DraftCounts()
    return found


@pytest.mark.parametrize("draft_len", [1, 4, 9])
def test_E087_alone(model: Model, expected: Answers, draft_len: int) -> None:
    core = core_of(model, LARGE, draft_len=draft_len)
    assert answers(core, requests(18, speculative=True), None) == expected
    counts = core.status().drafts
    assert 0 < counts.accepted < counts.drafted


@pytest.mark.parametrize("lies", [0.0, 0.15, 0.5])
@pytest.mark.parametrize(("chunk", "size"), [(7, SMALL), (64, LARGE)], ids=["small", "large"])
def test_E087_in_a_crowd(
    model: Model, expected: Answers, chunk: int, size: PoolSize, lies: float
) -> None:
    """Prompts in pieces, states and pages of others, preemptions if pages are few."""
    guesses = Knowing({number: tokens for number, (tokens, _) in enumerate(expected)}, lies)
    core = core_of(model, size, guesses, max_batch=4, prefill_chunk_tokens=chunk)
    asked = requests(18, speculative=True)
    assert answers(core, asked, random.Random(chunk)) == expected
    status = core.status()
    assert status.drafts.accepted > 20
    assert (status.drafts.accepted < status.drafts.drafted) == (lies > 0)
    assert status.kv_used_mb == 0
    assert (status.preemptions > 0) == (size is SMALL)


def test_a_spare_state_is_planned_for(tmp_path: Path) -> None:
    """A recurrent model tries a draft on a copy of a state, which takes its memory at load."""
    made = load_model(FAMILIES["qwen3_5"].save(tmp_path).folder, device="cpu", dtype="float32")
    config = EngineConfig(kv_memory_mb=8, max_batch=2, drafter="lookup")
    size = plan_pool(made, config)
    slots = []
    for change in ({}, {"draft_len": 0}, {"drafter": None}):
        cache = claim(made, size, replace(config, **change))  # type: ignore[arg-type]  # any field
        assert cache.states is not None
        slots.append(cache.states.slots)
    assert slots == [2 + size.snapshots + 1, 2 + size.snapshots, 2 + size.snapshots]


def test_the_setting_reaches_the_core() -> None:
    """The built-in model repeats what it is shown; asking for a drafter gives it drafts."""
    prompt = tuple(range(50, 70)) * 4
    found = []
    for drafter in (None, "lookup"):
        core = build_core("tiny", EngineConfig(dtype="float32", drafter=drafter))
        params = SamplingParams(max_tokens=40, temperature=0, ignore_eos=True)
        found.append(answers(core, [Request(prompt, params)], None))
        assert (core.status().drafts.drafted > 0) == (drafter is not None)
        core.close()
    assert found[0] == found[1]
