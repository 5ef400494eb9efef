"""A real model under load: every request gets what it gets alone."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from helexa.engine.build import build_core, claim, describe, plan_pool
from helexa.engine.config import EngineConfig
from helexa.engine.core import EngineCore
from helexa.engine.hardware import host_memory
from helexa.engine.loading import load_model
from helexa.engine.memory import MIB, PoolSize
from helexa.engine.models.model import Model
from helexa.engine.outputs import Request, StepOutput
from helexa.engine.params import GenerationDefaults, SamplingParams
from helexa.engine.runner import Runner
from helexa.engine.sampling import Sampler
from helexa.errors import CapacityError
from tests.engine.models.families import Family, hybrid

END = 7
VOCAB = 512
LARGE = PoolSize(num_blocks=1000, budget_blocks=900, budget_mb=0, snapshots=8)
SMALL = PoolSize(num_blocks=46, budget_blocks=40, budget_mb=0, snapshots=3)
HEADERS = frozenset(range(40))
"""Ids that may begin a message: recurrent models are continued behind them."""
PLAIN = Family("qwen3", fields={"num_hidden_layers": 2, "eos_token_id": END})
FAMILIES = {
    "qwen3": PLAIN,
    "qwen3_moe": Family("qwen3_moe", "qwen3_moe", {"num_hidden_layers": 2, "eos_token_id": END}),
    "qwen3_5": hybrid("qwen3_5", num_hidden_layers=4, eos_token_id=END),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random model."""
    return PLAIN.save(tmp_path_factory.mktemp("model")).folder


@pytest.fixture(scope="module", params=FAMILIES)
def crowded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """One of each kind: with pages alone, with experts, with states."""
    made = FAMILIES[request.param].save(tmp_path_factory.mktemp("crowded"))
    return load_model(made.folder, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return load_model(folder, device="cpu", dtype="float32")


def core_of(model: Model, size: PoolSize, **config: object) -> EngineCore:
    """A core with a pool of so many blocks."""
    settings = EngineConfig(block_size=4, **config)  # type: ignore[arg-type]  # any field
    spec = describe(model, size, settings, GenerationDefaults(), frozenset({END}))
    spec = replace(spec, header_ids=HEADERS)
    runner = Runner(model, claim(model, size, settings))
    return EngineCore(runner, Sampler(spec.vocab_size), spec, settings)


def drain(core: EngineCore, outputs: dict[int, list[StepOutput]]) -> None:
    while not core.idle:
        for output in core.step():
            outputs.setdefault(output.id, []).append(output)


def answer(outputs: list[StepOutput]) -> tuple[list[int], str | None]:
    return [token for output in outputs for token in output.token_ids], outputs[-1].finish_reason


def requests(count: int) -> list[Request]:
    """Ragged requests, many of which share a beginning; greedy and seeded in turn."""
    chance = random.Random(17)
    system = [chance.randrange(VOCAB) for _ in range(48)]
    made = []
    for number in range(count):
        own = [chance.randrange(VOCAB) for _ in range(chance.randint(1, 40))]
        params = SamplingParams(
            max_tokens=chance.randint(1, 60),
            temperature=0.0 if number % 2 else 1.0,
            top_k=chance.choice([0, 0, 8]),
            top_p=chance.choice([1.0, 1.0, 0.9]),
            seed=number,
            repetition_penalty=chance.choice([1.0, 1.2]),
            min_tokens=1,
        )
        made.append(Request((*system[: chance.choice([0, 20, 48])], *own), params))
    return made


@pytest.fixture(scope="module")
def alone(crowded: Model) -> list[tuple[list[int], str | None]]:
    """What each request gets with nobody beside it, and no cache."""
    core = core_of(crowded, LARGE, prefix_cache=False)
    answers = []
    for request in requests(32):
        outputs: dict[int, list[StepOutput]] = {}
        request_id = core.submit(request)
        drain(core, outputs)
        answers.append(answer(outputs[request_id]))
    return answers


@pytest.mark.parametrize(("chunk", "max_batch"), [(7, 8), (64, 8), (64, 32), (2048, 32)])
@pytest.mark.parametrize("small", [True, False], ids=["small pool", "large pool"])
def test_E050_E052_load_does_not_show(
    crowded: Model,
    alone: list[tuple[list[int], str | None]],
    chunk: int,
    max_batch: int,
    small: bool,
) -> None:
    """32 ragged requests arrive at random, some leave, and pages are short: the same tokens."""
    chance = random.Random(chunk)
    size = SMALL if small else LARGE
    core = core_of(crowded, size, max_batch=max_batch, prefill_chunk_tokens=chunk)
    outputs: dict[int, list[StepOutput]] = {}
    asked: dict[int, int] = {}
    gone = set()
    for number, request in enumerate(requests(32)):
        asked[core.submit(request)] = number
        for _ in range(chance.randrange(4)):
            for output in core.step():
                outputs.setdefault(output.id, []).append(output)
        if number % 9 == 8:
            leaver = chance.choice(list(asked))
            core.abort(leaver)
            gone.add(leaver)
    drain(core, outputs)
    for request_id, number in asked.items():
        if request_id not in gone:
            assert answer(outputs[request_id]) == alone[number]
    status = core.status()
    assert status.prefix.hits > 0
    assert status.kv_used_mb == 0
    assert (status.preemptions > 0) == small


def test_a_core_says_what_it_was_built_with(folder: Path) -> None:
    config = EngineConfig(device="cpu", dtype="float32", max_batch=2, max_context=100)
    core = build_core(folder, config)
    facts = core.facts
    assert (facts.device, facts.dtype, facts.max_context) == ("cpu", "float32", 100)
    assert facts.kv_bytes_per_token == 2 * 2 * 2 * 32 * 4
    assert facts.end_token_ids == (END,)
    assert facts.kv_capacity_tokens == core.status().kv_capacity_tokens >= 200


@pytest.mark.parametrize("asked_mb", [None, 100])
def test_a_dedicated_host_gives_all_it_has_and_reserves_what_it_is_told(
    model: Model, asked_mb: int | None
) -> None:
    """Elsewhere a quarter counts as free, half of which is granted whatever is to be kept free."""
    available_mb = host_memory().available_bytes // MIB
    config = EngineConfig(
        headroom_mb=available_mb // 2, floor_mb=0, max_batch=10**6, kv_memory_mb=asked_mb
    )
    served = plan_pool(model, replace(config, dedicated=True, prefix_cache_mb=7))
    assert served.budget_mb == asked_mb or served.budget_mb > available_mb // 3
    shared = plan_pool(model, config)
    assert shared.budget_mb == asked_mb or shared.budget_mb < available_mb // 4
    none = replace(config, headroom_mb=10**9, kv_memory_mb=None)
    assert plan_pool(model, none).budget_mb > 0
    assert plan_pool(model, replace(none, dedicated=True)).budget_mb == 0
    with pytest.raises(CapacityError, match="only 0 MiB"):
        plan_pool(model, replace(none, dedicated=True, kv_memory_mb=1))


def test_a_dedicated_host_keeps_all_the_prompts_it_is_told_to(model: Model) -> None:
    config = EngineConfig(kv_memory_mb=1, prefix_cache_mb=64, max_batch=2)
    block_mb = model.config.kv_bytes_per_token(4) * config.block_size / MIB
    for dedicated, pool_mb in ((False, 1 + 2 + 4), (True, 1 + 2 + 64)):
        size = plan_pool(model, replace(config, dedicated=dedicated))
        assert size.num_blocks * block_mb == pytest.approx(pool_mb, abs=2 * block_mb)


def test_memory_that_the_machine_refuses_is_told(model: Model) -> None:
    with pytest.raises(CapacityError) as caught:
        claim(model, PoolSize(10**12, 10**12, 10**9), EngineConfig())
    assert caught.value.required_mb > 10**9
