"""What a drafter that guesses from hidden states is handed: what each token was drawn from."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from helexa.engine.batch import Part
from helexa.engine.drafting.drafter import HiddenDrafter
from helexa.engine.drafting.lookup import LookupDrafter
from helexa.engine.loading import load_model
from helexa.engine.models.model import Model
from helexa.engine.outputs import Request
from helexa.engine.params import SamplingParams
from helexa.engine.sequence import Sequence as Row
from tests.engine.cache.test_state_pages import Bench as StateBench
from tests.engine.cache.test_state_pages import chat
from tests.engine.drafting.knowing import Knowing
from tests.engine.drafting.test_models import FAMILIES, LARGE, VOCAB, answers, core_of
from tests.engine.models.families import Reference
from tests.engine.paged import Bench

COUNT = 12
DRAFT = 4
SMALL = replace(LARGE, num_blocks=34, budget_blocks=28, snapshots=3)


class Reading(Knowing):
    """Keeps a copy of all it is handed, in order, and the tokens of a sequence that is over."""

    def __init__(
        self, answers: Mapping[int, Sequence[int]], lies: float, model: Model | None = None
    ) -> None:
        super().__init__(answers, lies)
        self.handed: dict[int, list[Tensor]] = {}
        self.texts: dict[int, list[int]] = {}
        self._model = model

    def take_hidden(self, seq: Row, hidden: Tensor) -> None:
        """The best token of each row must be the one that was drawn: answers are greedy."""
        logits = hidden if self._model is None else self._model.logits(hidden)
        assert logits.argmax(-1).tolist() == list(seq.tokens[-len(hidden) :])
        self.handed.setdefault(seq.id, []).append(hidden.clone())

    def propose(self, seq: Row, count: int) -> Sequence[int]:
        """What it knows; by now it was handed a row for each token."""
        assert self.rows(seq.id) == len(seq.generated)
        return super().propose(seq, count)

    def drop(self, seq: Row) -> None:
        super().drop(seq)
        self.texts[seq.id] = list(seq.tokens)

    def rows(self, id: int) -> int:
        return sum(len(hidden) for hidden in self.handed.get(id, ()))


@pytest.fixture(scope="module", params=["qwen3", "qwen3_5"])
def reference(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Reference:
    return FAMILIES[request.param].save(tmp_path_factory.mktemp("hidden"))


@pytest.fixture(scope="module")
def model(reference: Reference) -> Model:
    return load_model(reference.folder, device="cpu", dtype="float32")


def requests(*, speculative: bool = True) -> list[Request]:
    """Prompts of which some begin alike, with a header that recurrent models go on behind."""
    chance = random.Random(29)
    system = [*(chance.randrange(40, VOCAB) for _ in range(17)), 3]
    made = []
    for number in range(COUNT):
        own = [chance.randrange(40, VOCAB) for _ in range(chance.randint(1, 9))]
        params = SamplingParams(
            temperature=0, max_tokens=10 + number, ignore_eos=True, speculative=speculative
        )
        made.append(Request((3, *system, *own) if number % 3 else tuple(own), params))
    return made


@pytest.fixture(scope="module")
def expected(model: Model) -> dict[int, list[int]]:
    core = core_of(model, LARGE, prefix_cache=False)
    found = answers(core, requests(speculative=False), None)
    return {number: tokens for number, (tokens, _) in enumerate(found)}


@torch.inference_mode()
def hidden_states(model: Model, ids: list[int]) -> Tensor:
    """Of each token, all of them computed at once."""
    cache = model.new_cache(tokens=len(ids))
    part = Part(ids, 0, range(cache.num_blocks), len(ids))
    hidden: Tensor = model(model.batch([part], cache.block_size), cache)
    return hidden


@pytest.mark.parametrize("lies", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("crowded", [False, True])
def test_each_token_that_counts_is_handed_on_once(
    model: Model, expected: dict[int, list[int]], crowded: bool, lies: float
) -> None:
    """Alone, and among more rows than have drafts, with prompts in pieces and preemptions."""
    drafter = Reading(expected, lies, model)
    size, rows = (SMALL, 6) if crowded else (LARGE, 1)
    core = core_of(model, size, drafter, max_batch=rows, prefill_chunk_tokens=11, draft_len=DRAFT)
    found = answers(core, requests(), random.Random(1) if crowded else None)
    assert [tokens for tokens, _ in found] == list(expected.values())
    status = core.status()
    assert status.prefix.hits > 0
    assert (status.preemptions > 0) == crowded
    assert (status.drafts.accepted > 0) == (lies < 1)
    assert (status.drafts.accepted < status.drafts.drafted) == (lies > 0)
    for id, request in enumerate(requests()):
        text, handed = drafter.texts[id], torch.cat(drafter.handed[id])
        # Nothing is proposed for what is over: those of the last step are not handed on.
        assert len(expected[id]) - 1 - DRAFT <= len(handed) < len(expected[id])
        before = len(request.token_ids) - 1
        states = hidden_states(model, text)[before : before + len(handed)]
        torch.testing.assert_close(handed, states, rtol=0, atol=1e-3)
        assert (states[1:] - states[:-1]).abs().amax(-1).min() > 0.1  # no row is like its neighbour


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("lies", [0.0, 0.3])
def test_only_a_sequence_that_may_have_drafts_is_read(lies: float, recurrent: bool) -> None:
    """Also after a step that failed, which ends the youngest and is run again for the others."""
    prompt = chat(9, 4)
    params = {"max_tokens": 24, "temperature": 0, "ignore_eos": True}
    alone = StateBench() if recurrent else Bench()
    first = alone.submit(prompt, **params)
    while not alone.core.idle:
        alone.step()
    drafter = Reading(dict.fromkeys(range(3), alone.tokens(first)), lies)
    bench = StateBench(guesses=drafter) if recurrent else Bench(guesses=drafter, drafter="lookup")
    ids = [bench.submit(prompt, speculative=may, **params) for may in (True, False, True)]
    for _ in range(6):
        bench.step()
    bench.runner.faults.append(MemoryError("full"))
    while not bench.core.idle:
        bench.step()
    assert [bench.tokens(id) for id in ids[:2]] == [alone.tokens(first)] * 2
    assert set(drafter.handed) == {ids[0], ids[2]}
    assert 24 - 1 - DRAFT <= drafter.rows(ids[0]) < 24
    assert bench.core.status().drafts.accepted > 0


def test_without_drafts_nothing_is_handed_on() -> None:
    drafter = Reading({}, 0.0)
    bench = Bench(guesses=drafter, draft_len=0)
    bench.submit([1, 2, 3], speculative=True, max_tokens=5)
    bench.run()
    assert not drafter.handed


def test_a_look_up_reads_nothing() -> None:
    assert isinstance(Reading({}, 0.0), HiddenDrafter)
    assert not isinstance(LookupDrafter(), HiddenDrafter)
