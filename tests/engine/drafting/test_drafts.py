"""With any drafts, right or wrong, a core puts out what it puts out without them."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch

from helexa.engine.cache.blocks import BlockPool
from helexa.engine.cache.pages import Pages
from helexa.engine.drafting.drafts import MOST_ROWS
from helexa.engine.outputs import DraftCounts, StepOutput
from helexa.engine.params import GenerationDefaults, SamplingParams, resolve
from helexa.engine.sequence import Sequence as Row
from helexa.errors import InvalidRequest, NumericalError
from tests.engine.drafting.knowing import Knowing
from tests.engine.paged import Bench

HABIT = 7.0
PROMPT = [0, 1, 4, 13, 12, 9, 0, 1, 4, 13]
LONG = {"max_tokens": 60, "ignore_eos": True}
GREEDY = resolve(SamplingParams(temperature=0, seed=1), GenerationDefaults(), 64)
PARAMS: dict[str, dict[str, object]] = {
    "greedy": {},
    "seeded": {"temperature": 1.0, "seed": 3},
    "top-k": {"temperature": 1.2, "seed": 4, "top_k": 5},
    "top-p and min-p": {"temperature": 1.5, "seed": 5, "top_p": 0.9, "min_p": 0.02},
    "repetition": {"repetition_penalty": 1.1, "repeat_last_n": 9},
    "presence and frequency": {"presence_penalty": 0.4, "frequency_penalty": 0.1},
    "bias": {"logit_bias": {9: -3.0, 2: 4.0}},
    "min_tokens": {"min_tokens": 33, "ignore_eos": False, "stop_token_ids": [12]},
    "logprobs": {"logprobs": 3, "temperature": 0.8, "seed": 6},
}


def bench(habit: float = HABIT, **config: object) -> Bench:
    made = Bench(**{"blocks": 128, **config})  # type: ignore[arg-type]  # any field
    made.runner.habit = habit
    return made


def said(outputs: list[StepOutput]) -> tuple[object, ...]:
    """All that is told of an answer, however it was cut into steps."""
    last = outputs[-1]
    return (
        [token for output in outputs for token in output.token_ids],
        [logprob for output in outputs for logprob in output.logprobs],
        last.finish_reason,
        last.completion_tokens,
        [output.cache for output in outputs if output.cache is not None],
    )


def plain(prompt: list[int], habit: float = HABIT, **params: object) -> list[StepOutput]:
    """Without drafts, alone."""
    made = bench(habit, prefix_cache=False)
    request_id = made.submit(prompt, **params)
    made.run()
    assert made.core.status().drafts == DraftCounts()
    return made.outputs[request_id]


@pytest.mark.parametrize("params", PARAMS.values(), ids=PARAMS)
@pytest.mark.parametrize("habit", [0.0, 4.0, 9.0])
def test_drafts_do_not_show(params: dict[str, object], habit: float) -> None:
    asked = {**LONG, **params}
    made = bench(habit)
    request_id = made.submit(PROMPT, speculative=True, **asked)
    made.run()
    expected = plain(PROMPT, habit, **asked)
    assert said(made.outputs[request_id])[:4] == said(expected)[:4]
    counts = made.last(request_id).drafts
    if habit == 9.0 and not {"frequency_penalty", "repetition_penalty"} & set(params):
        assert counts is not None
        assert counts.accepted > 0
        assert len(made.outputs[request_id]) < len(expected)


@pytest.mark.parametrize("lies", [0.0, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("params", PARAMS.values(), ids=PARAMS)
def test_wrong_drafts_do_not_show(params: dict[str, object], lies: float) -> None:
    asked = {**LONG, **params}
    expected = plain(PROMPT, 0.0, **asked)
    answer = [token for output in expected for token in output.token_ids]
    made = bench(0.0, guesses=Knowing({0: answer}, lies))
    request_id = made.submit(PROMPT, speculative=True, **asked)
    made.run()
    assert said(made.outputs[request_id])[:4] == said(expected)[:4]
    counts = made.last(request_id).drafts
    assert counts is not None
    assert (counts.accepted == counts.drafted) == (lies == 0.0)
    assert (counts.accepted == 0) == (lies == 1.0)
    assert made.core.status().drafts == counts
    assert made.core.status().kv_used_mb == 0


@pytest.mark.parametrize("draft_len", [1, 3, 4, 9])
def test_a_right_draft_saves_as_many_steps_as_it_is_long(draft_len: int) -> None:
    expected = plain(PROMPT, 0.0, **LONG)
    answer = [token for output in expected for token in output.token_ids]
    made = bench(0.0, guesses=Knowing({0: answer}), draft_len=draft_len)
    request_id = made.submit(PROMPT, speculative=True, **LONG)
    made.run()
    lengths = [len(output.token_ids) for output in made.outputs[request_id]]
    assert max(lengths) == 1 + draft_len
    assert sum(lengths) == 60
    assert lengths[0] == 1  # the prompt's own step
    assert all(new <= 1 + draft_len for step in made.runner.steps[1:] for new, _ in step)


@pytest.mark.parametrize("limit", range(1, 14))
def test_an_answer_that_ends_within_a_draft(limit: int) -> None:
    """By its length, and at an end token: nothing behind it is told, drafted or not."""
    expected = plain(PROMPT, 0.0, **LONG)
    answer = [token for output in expected for token in output.token_ids]
    for asked in (
        {"max_tokens": limit, "ignore_eos": True},
        {"max_tokens": 60, "ignore_eos": True, "stop_token_ids": [answer[limit]]},
        {"max_tokens": 60, "stop_token_ids": [answer[limit]], "min_tokens": limit},
        {"max_tokens": 60, "stop_token_ids": [answer[limit]], "min_tokens": limit + 1},
    ):
        made = bench(0.0, guesses=Knowing({0: answer}), draft_len=5)
        request_id = made.submit(PROMPT, speculative=True, **asked)
        made.run()
        assert said(made.outputs[request_id])[:4] == said(plain(PROMPT, 0.0, **asked))[:4]
        assert made.core.status().kv_used_mb == 0
        assert made.core.idle


def test_what_is_behind_an_end_token_is_not_counted() -> None:
    """Not even if a draft had it right: the answer does not get it."""
    expected = plain(PROMPT, 0.0, **LONG)
    answer = [token for output in expected for token in output.token_ids]
    unused = set()
    for end in dict.fromkeys(answer[6:12]):
        length = answer.index(end)
        made = bench(0.0, guesses=Knowing({0: answer}), draft_len=5)
        request_id = made.submit(PROMPT, speculative=True, stop_token_ids=[end], **LONG)
        made.run()
        last, outputs = made.last(request_id), made.outputs[request_id]
        assert last.completion_tokens == length
        assert last.drafts is not None
        assert last.drafts.accepted == length - (len(outputs) - 1)  # each step drew one itself
        assert made.core.status().drafts == last.drafts
        unused.add(last.drafts.drafted - last.drafts.accepted)
    assert len(unused) > 2


def test_what_was_drafted_wrongly_is_never_reused() -> None:
    """Pages that a draft filled count only as far as it was right: the next prompt is as cold."""
    expected = plain(PROMPT, 0.0, **LONG)
    answer = [token for output in expected for token in output.token_ids]
    for lies in (0.0, 0.3, 1.0):
        made = bench(0.0, guesses=Knowing({0: answer, 1: answer}, lies, seed=8))
        made.submit(PROMPT, speculative=True, **LONG)
        made.run()
        turn = [*PROMPT, *answer, 5, 6]
        second = made.submit(turn, max_tokens=9, ignore_eos=True, speculative=False)
        made.run()
        assert made.tokens(second) == said(plain(turn, 0.0, max_tokens=9, ignore_eos=True))[0]
        first = made.outputs[second][0]
        assert first.cached_tokens == (len(PROMPT) + 60 - 1) // 4 * 4  # all full pages


def test_load_does_not_show() -> None:
    """Crowds, chunked prompts, few pages, preemptions and aborts, with and without drafts."""
    chance = random.Random(5)
    made = bench(8.0, blocks=40, budget=30, max_batch=6, prefill_chunk_tokens=9)
    asked: dict[int, tuple[list[int], dict[str, object]]] = {}
    for number in range(60):
        prompt = [chance.randrange(14) for _ in range(chance.randint(1, 24))]
        params: dict[str, object] = {
            "max_tokens": chance.randint(1, 40),
            "seed": number,
            "temperature": chance.choice([0, 1.0]),
            "speculative": chance.choice([True, True, False]),
        }
        asked[made.submit(prompt, **params)] = (prompt, params)
        for _ in range(chance.randrange(12)):
            made.step()
        if chance.random() < 0.15:
            gone = chance.choice(list(asked))
            made.core.abort(gone)
            del asked[gone]
    made.run()
    status = made.core.status()
    assert status.preemptions > 0
    assert status.drafts.accepted > 100
    assert status.drafts.accepted < status.drafts.drafted
    assert status.kv_used_mb == 0
    for request_id, (prompt, params) in asked.items():
        expected = plain(prompt, 8.0, **{**params, "speculative": False})
        assert said(made.outputs[request_id])[:4] == said(expected)[:4]


def test_a_draft_takes_no_page_from_anybody() -> None:
    """Behind the page of its last token a row drafts only if a page is left for each row."""
    pages = Pages(BlockPool(8, 4), 8)
    seqs = [
        Row.of(n, tuple(range(n, n + 7)), (), GREEDY, max_new=20, ends=frozenset()) for n in (0, 9)
    ]
    for seq in seqs:
        assert pages.admit(seq, 0, set())  # two pages each, of which the second has room for one
    assert pages.stretch(seqs[0], 4, reserve=4) == 1
    assert len(seqs[0].blocks) == 2
    assert pages.stretch(seqs[0], 4, reserve=3) == 4
    assert len(seqs[0].blocks) == 3
    assert pages.stretch(seqs[1], 9, reserve=2) == 1
    assert pages.available == 3


def test_large_batches_have_no_drafts() -> None:
    made = bench(9.0, max_batch=MOST_ROWS + 1)
    for _ in range(MOST_ROWS + 1):
        made.submit(PROMPT, speculative=True, **LONG)
    for _ in range(30):
        made.step()
    assert made.core.status().drafts.drafted == 0
    seq = made.core._scheduler.running[-1]
    before = seq.unwatched
    assert (seq.pace.steps, before) == (0, len(seq.generated))  # they count, though nobody looked
    made.core.abort(0)
    for _ in range(5):
        made.step()
    assert made.core.status().drafts.drafted > 0
    assert seq.pace.steps + seq.unwatched == before + 5


def test_prompts_are_not_kept_waiting() -> None:
    """A row has drafts before and after a prompt, which it would gain from as much beside it."""
    expected = plain(PROMPT, 0.0, **LONG)
    answer = [token for output in expected for token in output.token_ids]
    made = bench(0.0, guesses=Knowing({0: answer}), prefill_chunk_tokens=4, draft_len=2)
    made.submit(PROMPT, speculative=True, **LONG)
    made.submit([7] * 6, max_tokens=6, ignore_eos=True, speculative=False)
    for _ in range(10):
        made.step()
    rows = [[new for new, _ in step] for step in made.runner.steps]
    assert [3, 1] in rows  # so it is known what drafts cost in steps of two
    before = len(made.runner.steps)
    made.submit([5] * 40, max_tokens=1, speculative=True)
    made.run()
    rows = [[new for new, _ in step] for step in made.runner.steps[before:]]
    assert rows[:10] == [[1, 4]] * 10
    assert max(rows[10:]) == [3]


@pytest.mark.parametrize(
    ("config", "asked", "drafts"),
    [
        ({}, None, False),
        ({}, True, True),
        ({"drafter": "lookup"}, None, True),
        ({"drafter": "lookup"}, False, False),
        ({"drafter": "lookup", "draft_len": 0}, True, False),
    ],
)
def test_E087_who_gets_drafts(config: dict[str, object], asked: bool | None, drafts: bool) -> None:
    made = bench(9.0, **config)
    request_id = made.submit(PROMPT, speculative=asked, **LONG)
    made.run()
    assert (made.core.status().drafts.drafted > 0) == drafts
    assert (made.last(request_id).drafts is not None) == drafts


def test_E087_a_draft_that_goes_wrong_at_each_place() -> None:
    """[a, b, c] against [a, b, c, d]; [a, x, …]; [x, …]: 4, 2 and 1 tokens at once."""
    expected = plain(PROMPT, 0.0, **LONG)
    answer = [token for output in expected for token in output.token_ids]

    class Scripted(Knowing):
        wrong: int | None = None

        def propose(self, seq: Row, count: int) -> Sequence[int]:
            draft = list(super().propose(seq, min(count, 3)))
            if self.wrong is not None and len(draft) == 3:
                draft[self.wrong] ^= 1
            return draft

    for wrong, tokens in ((None, 4), (1, 2), (0, 1), (2, 3)):
        drafter = Scripted({0: answer})
        made = bench(0.0, guesses=drafter)
        request_id = made.submit(PROMPT, speculative=True, **LONG)
        while not made.core.status().drafts.drafted:
            before = len(made.tokens(request_id))
            drafter.wrong = wrong
            (output,) = made.step()
        assert list(output.token_ids) == answer[before : before + tokens]
        assert made.core.status().drafts == DraftCounts(3, tokens - 1)
        drafter.wrong = None
        made.run()
        assert made.tokens(request_id) == answer


def test_sick_logits_within_a_draft_are_told_when_their_token_is_due() -> None:
    """What comes before them is an answer's as without drafts, and then comes the error."""
    expected = plain(PROMPT, 0.0, **LONG)
    answer = [token for output in expected for token in output.token_ids]
    at = next(i for i in range(8, 40) if answer[i] not in [*PROMPT, *answer[:i]])
    made = bench(0.0, guesses=Knowing({0: answer}))
    made.runner.sick = {answer[at]}
    request_id = made.submit(PROMPT, speculative=True, **LONG)
    made.run()
    assert made.tokens(request_id) == answer[: at + 1]
    assert isinstance(made.last(request_id).error, NumericalError)
    assert made.last(request_id).token_ids == ()


def test_a_step_that_fails_with_drafts_is_run_again() -> None:
    expected = plain(PROMPT, 0.0, **LONG)
    answer = [token for output in expected for token in output.token_ids]
    made = bench(0.0, guesses=Knowing({0: answer, 1: answer}))
    kept = made.submit(PROMPT, speculative=True, **LONG)
    for _ in range(3):
        made.step()
    made.submit([7] * 6, max_tokens=3)
    made.runner.faults.append(torch.OutOfMemoryError("full"))
    made.run()
    assert made.tokens(kept) == answer


def test_a_drafter_is_told_who_is_over() -> None:
    drafter = Knowing({0: [], 1: []})
    made = bench(0.0, guesses=drafter)
    made.submit(PROMPT, max_tokens=2)
    aborted = made.submit(PROMPT, max_tokens=50)
    made.step()
    made.core.abort(aborted)
    made.run()
    assert set(drafter.dropped) == {0, 1}


@pytest.mark.parametrize("value", [1, "yes", 0.5])
def test_only_true_and_false_are_taken(value: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Bench().submit(PROMPT, speculative=value)
    assert caught.value.param == "speculative"
