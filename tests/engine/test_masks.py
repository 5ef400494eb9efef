"""Masks in the core: they survive preemption and continuation, and fail alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest
from torch import Tensor

from helexa.engine.ahead.launched import Onward
from helexa.engine.build import build_core
from helexa.engine.config import EngineConfig
from helexa.engine.core import EngineCore
from helexa.engine.masks import GrammarSpec, MaskFactory, TokenMask
from helexa.engine.outputs import Request, StepOutput
from helexa.engine.params import SamplingParams
from helexa.engine.sampling import Sampled, Sampler, SampleRow
from helexa.errors import InvalidRequest, UnsupportedGrammar
from tests.cores import Panic

FEW_PAGES = EngineConfig(kv_memory_mb=1, block_size=4, prefix_cache=False, max_batch=4)
ONE_ANSWER = 51  # pages
SPEC = GrammarSpec("json_object", "")


class Counting:
    """Lets odd and even ids take turns, and ends after ``length`` tokens or by an error."""

    def __init__(self, ends: frozenset[int], length: int, fails_at: int | None) -> None:
        self.count = 0
        self.ends = ends
        self.length = length
        self.fails_at = fails_at
        self.is_cut = False

    def fill(self) -> bytes:
        if self.count == self.fails_at:
            raise UnsupportedGrammar("the grammar cannot go on")
        return (b"\xaa" if self.count % 2 else b"\x55") * 100  # ids below 800

    def accept(self, token_id: int) -> None:
        if token_id % 2 != self.count % 2:
            raise InvalidRequest(f"token {token_id} does not fit")
        self.count += 1

    @property
    def is_terminated(self) -> bool:
        return self.count == self.length


class CountingMasks:
    """A factory of such masks; ``fails_at`` is for prompts that begin with token 9."""

    def __init__(self, length: int = 120, fails_at: int | None = None) -> None:
        self.length = length
        self.fails_at = fails_at

    def prepare(self, spec: GrammarSpec) -> None: ...

    def start(
        self, spec: GrammarSpec, prompt: Sequence[int], ends: frozenset[int], max_tokens: int
    ) -> TokenMask:
        return Counting(ends, self.length, self.fails_at if prompt[0] == 9 else None)


def core_of(masks: MaskFactory | None, config: EngineConfig = FEW_PAGES) -> EngineCore:
    core = build_core("tiny", replace(config, dtype="float32"))
    spec = replace(core.spec, budget_blocks=ONE_ANSWER)
    return EngineCore(core._execution.runner, Sampler(spec.vocab_size), spec, config, masks=masks)


def request(seed: int, *, prompt: tuple[int, ...] = (5, 6, 7), **fields: object) -> Request:
    params = SamplingParams(max_tokens=200, temperature=seed % 2, seed=seed, ignore_eos=True)
    return replace(Request(prompt, params, grammar=SPEC), **fields)


def drain(core: EngineCore) -> dict[int, list[StepOutput]]:
    outputs: dict[int, list[StepOutput]] = {}
    while not core.idle:
        for output in core.step():
            outputs.setdefault(output.id, []).append(output)
    return outputs


def tokens(outputs: list[StepOutput]) -> list[int]:
    return [token for output in outputs for token in output.token_ids]


def run(core: EngineCore, *asked: Request) -> list[list[StepOutput]]:
    ids = [core.submit(one) for one in asked]
    outputs = drain(core)
    return [outputs[id] for id in ids]


def test_what_is_masked_never_comes_and_nothing_follows_the_end() -> None:
    (outputs,) = run(core_of(CountingMasks(9)), request(1))
    assert [token % 2 for token in tokens(outputs)] == [0, 1] * 4 + [0]
    assert outputs[-1].finish_reason == "stop"
    assert outputs[-1].completion_tokens == 9
    assert max(tokens(outputs)) < 800


def test_masks_survive_preemption() -> None:
    core = core_of(CountingMasks())
    expected = [tokens(run(core, request(seed))[0]) for seed in range(4)]
    assert core.status().preemptions == 0
    together = run(core, *(request(seed) for seed in range(4)))
    assert core.status().preemptions > 0
    assert [tokens(outputs) for outputs in together] == expected
    assert all(outputs[-1].finish_reason == "stop" for outputs in together)


@pytest.mark.parametrize("seed", [0, 1], ids=["greedy", "seeded"])
def test_a_continuation_goes_on_as_if_never_interrupted(seed: int) -> None:
    core = core_of(CountingMasks(40))
    whole = tokens(run(core, request(seed))[0])
    for done in (1, 7, 39, 40):
        (outputs,) = run(core, request(seed, generated=tuple(whole[:done])))
        assert whole[:done] + tokens(outputs) == whole
        assert outputs[-1].finish_reason == "stop"


def test_a_continuation_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="does not fit"):
        core_of(CountingMasks()).submit(request(0, generated=(2, 4)))


def test_a_mask_that_fails_ends_its_own_request_only() -> None:
    core = core_of(CountingMasks(30, fails_at=5))
    free = replace(request(3), grammar=None)
    expected = [tokens(outputs) for outputs in run(core, request(1), free)]
    failed, good, other = run(core, request(2, prompt=(9, 9)), request(1), free)
    assert isinstance(failed[-1].error, UnsupportedGrammar)
    assert len(tokens(failed)) == 5
    assert [tokens(good), tokens(other)] == expected
    assert core.status().kv_used_mb == 0


class Recording:
    """A sampler that keeps the rows it was asked for."""

    def __init__(self, vocab_size: int) -> None:
        self.inner = Sampler(vocab_size)
        self.rows: list[SampleRow] = []

    def sample(
        self, logits: Tensor, rows: Sequence[SampleRow], onward: Onward | None = None
    ) -> list[Sampled]:
        self.rows += rows
        return self.inner.sample(logits, rows, onward)


def test_rows_without_a_grammar_have_no_mask() -> None:
    core = core_of(CountingMasks(5))
    sampler = Recording(core.spec.vocab_size)
    watched = EngineCore(
        core._execution.runner, sampler, core.spec, FEW_PAGES, masks=CountingMasks(5)
    )
    run(watched, replace(request(1), grammar=None), request(1))
    masked = [row.allowed is not None for row in sampler.rows]
    assert masked.count(True) == 5
    assert masked.count(False) == 200


def test_a_core_without_masks_refuses_a_grammar() -> None:
    with pytest.raises(UnsupportedGrammar):
        core_of(None).submit(request(0))


def test_a_real_grammar_survives_all_of_that_too() -> None:
    """Preempted or continued at any token, also while it closes, an answer is the same."""
    from pathlib import Path

    import helexa
    from helexa.text.grammar.factory import GrammarFactory
    from helexa.text.parsing.markers import probe_markers
    from helexa.text.tokenizer import Tokenizer

    tiny = Tokenizer.from_folder(Path(helexa.__file__).parent / "builtin" / "tiny")
    core = core_of(GrammarFactory(tiny, probe_markers(tiny)))
    short = replace(request(0).params, max_tokens=110, temperature=1.0)
    asked = [
        request(seed, params=replace(short, seed=seed), grammar=replace(SPEC, reasoning=False))
        for seed in range(4)
    ]
    answers = [tokens(run(core, one)[0]) for one in asked]
    assert [tokens(outputs) for outputs in run(core, *asked)] == answers
    assert core.status().preemptions > 0
    for one, whole in zip(asked, answers, strict=True):
        assert isinstance(json.loads(tiny.decode(whole)), dict)
        for done in (1, len(whole) // 2, len(whole) - 3):
            (outputs,) = run(core, replace(one, generated=tuple(whole[:done])))
            assert whole[:done] + tokens(outputs) == whole


class Broken(Counting):
    """A library that fails in a way of its own: with an error, or with a panic."""

    def __init__(self, fault: BaseException, at: str) -> None:
        super().__init__(frozenset(), 120, None)
        self.fault, self.at = fault, at

    def fill(self) -> bytes:
        if self.at == "fill" and self.count:
            raise self.fault
        return super().fill()

    def accept(self, token_id: int) -> None:
        if self.at == "accept" and self.count:
            raise self.fault
        super().accept(token_id)


class BrokenMasks(CountingMasks):
    """A factory of such masks for prompts that begin with token 9."""

    def __init__(self, fault: BaseException, at: str) -> None:
        super().__init__()
        self.fault, self.at = fault, at

    def start(
        self, spec: GrammarSpec, prompt: Sequence[int], ends: frozenset[int], max_tokens: int
    ) -> TokenMask:
        if prompt[0] == 9:
            return Broken(self.fault, self.at)
        return super().start(spec, prompt, ends, max_tokens)


@pytest.fixture(scope="module")
def calm() -> list[int]:
    """What a request says beside which nothing breaks."""
    return tokens(run(core_of(CountingMasks()), request(1))[0])


@pytest.mark.parametrize("at", ["fill", "accept"])
@pytest.mark.parametrize("fault", [IndexError("bug"), Panic("bug")], ids=repr)
def test_a_mask_that_breaks_fails_alone(calm: list[int], fault: BaseException, at: str) -> None:
    core = core_of(BrokenMasks(fault, at))
    broken, sound = run(core, request(0, prompt=(9, 6, 7)), request(1))
    assert tokens(sound) == calm
    assert len(tokens(broken)) == 1
    assert broken[-1].error is not None
    assert (broken[-1].error.status, "bug" in str(broken[-1].error)) == (500, True)
    assert core.status().kv_used_mb == 0
