"""Steps that are launched before the tokens of the last are known: seen only in the time it takes.

A toy model takes the place of a real one, and a recorder that does the work again that of a GPU's
graphs; real models are in models/test_fast_paths_on_device.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from helexa.engine import read_ahead
from helexa.engine.ahead.launched import Launched
from helexa.engine.batch import Computed, Part
from helexa.engine.download import Download
from tests.engine.drafting.knowing import Confident
from tests.engine.toy import WAYS, Cores, Replays, load

VOCABULARIES = pytest.mark.parametrize("vocab", [256, 300], ids=["read in place", "padded"])


def answers(way: str, **options: Any) -> tuple[Cores, list[Any]]:
    """Three answers, of different lengths, in a core with these options."""
    cores = Cores(**options)
    ids = [
        cores.submit([5 + n, 6, 7 * n], max_tokens=12 + 4 * n, seed=n, logprobs=2, **WAYS[way])
        for n in range(3)
    ]
    cores.run()
    return cores, [cores.said(one) for one in ids]


@VOCABULARIES
@pytest.mark.parametrize("way", WAYS)
def test_answers_and_logprobs_are_the_same_and_steps_are_used(way: str, vocab: int) -> None:
    plain, expected = answers(way, vocab=vocab, look_ahead=False)
    cores, found = answers(way, vocab=vocab)
    assert found == expected
    assert plain.runner.steps_ahead.launched == 0
    steps = cores.runner.steps_ahead
    assert steps.used == steps.launched  # every guess was right, and nothing came in between
    assert steps.used >= 15  # of 20, the first two of which must be recorded


@pytest.mark.parametrize("way", ["greedy", "usual", "top-p", "penalties"])
def test_by_kernels(way: str) -> None:
    pytest.importorskip("triton", reason="there is no triton for this machine")
    _, expected = answers(way, vocab=24, look_ahead=False)
    cores, found = answers(way, vocab=24, kernels=True)
    assert [said[0] for said in found] == [said[0] for said in expected]
    steps = cores.runner.steps_ahead
    assert steps.used == steps.launched >= 15


@VOCABULARIES
def test_a_load_of_all_kinds_is_as_without(vocab: int) -> None:
    """Arrivals, aborts, stops, shared prompts, and too few pages for all."""
    options = {"vocab": vocab, "blocks": 30, "max_batch": 5, "prefill_chunk_tokens": 9}
    plain, ahead = Cores(look_ahead=False, **options), Cores(**options)
    ended, ended_too = load(plain, 60), load(ahead, 60)
    for one in ended:
        if ended[one] and ended_too[one]:
            assert ahead.said(one) == plain.said(one)
        else:  # it was aborted
            pairs = zip(ahead.said(one)[0], plain.said(one)[0], strict=False)
            assert all(mine == other for mine, other in pairs)
    assert sum(ended.values()) > 40
    status = ahead.core.status()
    assert status.preemptions > 0
    assert status.prefix.hits > 0
    assert status.kv_used_mb == 0
    steps = ahead.runner.steps_ahead
    assert 0 < steps.used < steps.launched


def test_an_abort_leaves_the_others_their_step() -> None:
    plain, ahead = Cores(look_ahead=False), Cores()
    for cores in (plain, ahead):
        for n in range(4):
            cores.submit([n + 1, 2], max_tokens=20, temperature=0, ignore_eos=True)
        for _ in range(6):
            cores.step()
        before = cores.runner.steps_ahead.used
        cores.core.abort(1)
        cores.step()
        assert cores.runner.steps_ahead.used == before + (cores is ahead)
        cores.run()
    assert [ahead.said(n) for n in (0, 2, 3)] == [plain.said(n) for n in (0, 2, 3)]


def test_an_answer_that_stops_leaves_the_others_their_step() -> None:
    _, ((first, *_), _, _) = answers("greedy", look_ahead=False)
    plain, ahead = Cores(look_ahead=False), Cores()
    for cores in (plain, ahead):
        for n in range(3):
            params = {"stop_token_ids": [first[6]], "max_tokens": 16, "temperature": 0}
            cores.submit([5 + n, 6, 7 * n], **params)
        cores.run()
    assert len(ahead.said(0)[0]) <= 6
    assert [ahead.said(n) for n in range(3)] == [plain.said(n) for n in range(3)]
    steps = ahead.runner.steps_ahead
    assert steps.used >= steps.launched - 1  # but one, if all that were left have stopped at once


@pytest.mark.parametrize("wrong", ["always", "now and then", "ids of another row"])
@pytest.mark.parametrize("way", ["greedy", "usual"])
def test_wrong_guesses_change_nothing(
    way: str, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    guesses = read_ahead.guesses

    def lies(rows: Sequence[Any]) -> Tensor | None:
        nonlocal calls
        calls += 1
        found = guesses(rows)
        assert found is not None
        if wrong == "ids of another row":
            return found.flip(0)
        return (found + 1) % 256 if wrong == "always" or calls % 3 == 0 else found

    _, expected = answers(way, look_ahead=False)
    monkeypatch.setattr(read_ahead, "guesses", lies)
    cores, found = answers(way)
    assert found == expected
    steps = cores.runner.steps_ahead
    assert steps.launched > 10
    assert steps.used == 0 if wrong == "always" else steps.used < steps.launched


class Operators(TorchDispatchMode):
    """Notes every operator of torch."""

    def __init__(self, heard: list[str]) -> None:
        super().__init__()
        self.heard = heard

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.heard.append(str(func))
        return func(*args, **(kwargs or {}))


@VOCABULARIES
@pytest.mark.parametrize("way", WAYS)
def test_the_host_waits_for_nothing_that_was_launched_ahead(
    way: str, vocab: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is read is copied before the launch; behind it no operator of torch runs."""
    heard: list[str] = []

    class Noted(Download):
        def __init__(self, groups: Any) -> None:
            super().__init__(groups)
            heard.append("copy")

        def wait(self) -> Any:
            heard.append("wait")
            return super().wait()

    monkeypatch.setattr(read_ahead, "Download", Noted)
    cores = Cores(vocab, recorder=Replays(heard))
    for n in range(3):
        cores.submit([5 + n, 6], max_tokens=20, seed=n, logprobs=2, ignore_eos=True, **WAYS[way])
    for _ in range(5):
        cores.step()
    used = cores.runner.steps_ahead.used
    for _ in range(5):
        heard.clear()
        with Operators(heard):
            cores.step()
        assert heard.count("replay") == 1
        assert heard.index("copy") < heard.index("replay") < heard.index("wait")
        behind = heard[heard.index("wait") + 1 :]
        assert behind == []
    assert cores.runner.steps_ahead.used == used + 5


def test_what_is_read_late_is_of_its_own_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A draw that needs more of a row than was fetched finds it untouched by the next step."""
    for module in ("drawing", "read_ahead"):
        monkeypatch.setattr(f"helexa.engine.{module}.MARGIN", 0)
    monkeypatch.setattr("helexa.engine.drawing.FIRST_READ", 2)
    params = {"temperature": 1.5, "top_k": 0, "top_p": 0.999, "logprobs": 4, "max_tokens": 20}
    found = []
    for look_ahead in (False, True):
        cores = Cores(look_ahead=look_ahead)
        ids = [cores.submit([1, n], seed=n, ignore_eos=True, **params) for n in range(2)]
        cores.run()
        found.append([cores.said(one) for one in ids])
    assert found[0] == found[1]
    assert cores.runner.steps_ahead.launched > 0


def test_rows_that_may_have_drafts_are_not_gone_on_with() -> None:
    cores, found = answers("greedy", drafter=Confident())
    drafted = Cores(drafter=Confident())
    assert cores.runner.steps_ahead.used > 0
    ids = [
        drafted.submit([5 + n, 6, 7 * n], max_tokens=12 + 4 * n, temperature=0, speculative=True)
        for n in range(3)
    ]
    drafted.run()
    assert drafted.runner.steps_ahead.launched == 0
    assert [drafted.said(one)[0] for one in ids] == [said[0] for said in found]


def test_what_a_drafter_reads_late_is_of_its_own_step() -> None:
    cores = Cores()
    cores.submit([1, 2], max_tokens=30, temperature=0, ignore_eos=True)
    for _ in range(4):
        cores.step()
    hidden = cores.runner.hidden
    kept = hidden.clone()
    part = Part((0,), 5, cores.core._open[0].blocks, 1)
    assert cores.runner.launch([part], torch.tensor([7])) is not None
    assert torch.equal(cores.runner.hidden, kept)


def test_too_many_tokens_to_guess_from() -> None:
    cores = Cores(2000)
    for n in range(2):
        cores.submit([1, n], max_tokens=8, temperature=1.0, top_k=600, seed=n, ignore_eos=True)
    cores.run()
    assert cores.runner.steps_ahead.launched == 0


def test_nothing_is_recorded_ahead_and_more_rows_than_that_run_as_usual() -> None:
    heard: list[str] = []
    cores = Cores(max_batch=40, blocks=400, recorder=Replays(heard))
    for n in range(40):
        cores.submit([n, 2], max_tokens=4, temperature=0, ignore_eos=True)
    cores.run()
    assert cores.runner.steps_ahead.launched == 0


# --- what was launched is compared with what is asked for ----------------------------------------

PARTS = [Part((0,), 7, [2, 5], 1, 0), Part((0,), 3, [9], 1, 0), Part((0,), 8, [4, 6, 8], 1, 0)]
COMPUTED = Computed(torch.arange(3.0)[:, None], torch.arange(3.0)[:, None] * 10)


def launched(ids: list[int] | None = None) -> Launched:
    made = Launched.of(PARTS, 4, COMPUTED, 0.5)
    made.ids = [11, 12, 13] if ids is None else ids
    return made


def asked(*rows: int) -> list[Part]:
    """What would be asked for of these rows."""
    return [PARTS[row]._replace(tokens=[11 + row], blocks=[*PARTS[row].blocks, 7]) for row in rows]


@pytest.mark.parametrize("rows", [(0, 1, 2), (0, 1), (1,), (0, 2), (1, 2)], ids=str)
def test_rows_in_order_are_found_and_selected(rows: tuple[int, ...]) -> None:
    found = launched().rows(asked(*rows))
    assert found == list(rows)
    computed = launched().rows_of(found)
    assert computed.hidden[:, 0].tolist() == list(rows)
    assert computed.logits[:, 0].tolist() == [10 * row for row in rows]


@pytest.mark.parametrize(
    "parts",
    [
        [],
        asked(1, 0),
        [*asked(0), *asked(0)],
        [*asked(0), Part([1, 2, 3], 0, [1], 1)],
        [asked(0)[0]._replace(tokens=[12])],
        [asked(0)[0]._replace(tokens=[11, 11])],
        [asked(0)[0]._replace(context=6)],
        [asked(0)[0]._replace(blocks=[2, 4])],
        [asked(0)[0]._replace(blocks=[2])],
        [asked(0)[0]._replace(state=1)],
        [asked(0)[0]._replace(want_logits=0)],
    ],
    ids=[
        *("nothing", "another order", "twice", "a prompt", "another token", "a draft"),
        *("another place", "another page", "a page less", "another state", "no logits"),
    ],
)
def test_anything_else_is_not_what_was_launched(parts: list[Part]) -> None:
    assert launched().rows(parts) is None


def test_nothing_is_known_of_it_until_the_host_has_read_the_tokens() -> None:
    made = launched()
    made.ids = None
    assert made.rows(asked(0)) is None


def test_pages_that_change_later_are_not_those_that_were_launched_with() -> None:
    parts = [PARTS[0]._replace(blocks=[2, 5])]
    made = Launched.of(parts, 4, COMPUTED, 0.5)
    made.ids = [11]
    parts[0].blocks[0] = 3
    assert made.rows([parts[0]._replace(tokens=[11])]) is None


@pytest.mark.parametrize("between", ["a run", "copies"])
def test_it_is_the_very_next_run_or_none(between: str) -> None:
    cores = Cores()
    cores.submit([1, 2], max_tokens=30, temperature=0, ignore_eos=True)
    for _ in range(5):
        cores.step()
    runner = cores.runner
    before = runner.steps_ahead.used
    assert runner.steps_ahead.launched > before
    if between == "copies":
        runner.copy([])
    else:
        runner.run([Part([1], 0, [150], 1)])
    cores.step()
    assert runner.steps_ahead.used == before
