"""Recorded decode steps, by a recorder that does the work again on the same memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from helexa.engine.batch import Computed, Part
from helexa.engine.graphs import CannotRecord, DecodeGraphs, decode_graphs
from helexa.engine.loading import load_model
from helexa.engine.models.model import Model
from helexa.engine.runner import Runner
from tests.engine.answers import PAGE, Answers, script
from tests.engine.models.interpreted import FAMILIES, interpreted


class Again:
    """Does recorded work once more and leaves the result where the first one was."""

    def __init__(self, refuses: bool = False) -> None:
        self.refuses = refuses
        self.recorded = self.replayed = 0

    def record(self, work: Callable[[], Computed]) -> tuple[Callable[[], None], Computed]:
        if self.refuses:
            raise CannotRecord("it waits")
        self.recorded += 1
        result = Computed(*(made.clone() for made in work()))

        def replay() -> None:
            self.replayed += 1
            for kept, made in zip(result, work(), strict=True):
                kept.copy_(made)

        return replay, result


@pytest.mark.parametrize("name", FAMILIES)
def test_replayed_steps_are_the_plain_ones(name: str, tmp_path: Path) -> None:
    pytest.importorskip("triton", reason="there is no triton for this machine")
    FAMILIES[name].save(tmp_path)
    plain = load_model(tmp_path, device="cpu", dtype="float32")
    model, recorder = interpreted(tmp_path), Again()
    ours = Answers(model, lambda cache: DecodeGraphs(model, cache, recorder, (1, 2, 4)))
    assert script(ours) == script(Answers(plain, lambda cache: None))
    assert recorder.recorded == 3
    assert recorder.replayed == 8


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Model:
    pytest.importorskip("triton", reason="there is no triton for this machine")
    folder = tmp_path_factory.mktemp("dense")
    FAMILIES["qwen3"].save(folder)
    return interpreted(folder)


def test_recording_leaves_no_trace(dense: Model) -> None:
    cache = dense.new_cache(6, PAGE)
    cache.memory.normal_()
    before = cache.memory.clone()
    graphs = DecodeGraphs(dense, cache, Again())
    with torch.inference_mode():
        step = graphs.step([Part([5], 3, [2], True)])
        assert torch.equal(cache.memory, before)
        assert step is not None
        step()
    changed = (cache.memory != before).any(-1).nonzero()[:, -1].unique()
    assert changed.tolist() == [2 * PAGE + 3]


def test_a_replayed_step_leaves_its_hidden_states(dense: Model) -> None:
    recorder, cache = Again(), dense.new_cache(8, PAGE)
    replayed = Runner(dense, cache, graphs=DecodeGraphs(dense, cache, recorder, (4,)))
    plain = Runner(dense, dense.new_cache(8, PAGE))
    blocks = [[1, 4], [6, 2]]
    for first, second in (
        (Part([1, 2, 3], 0, blocks[0], True), Part([4, 5], 0, blocks[1], True)),
        (Part([6], 3, blocks[0], True), Part([7], 2, blocks[1], True)),
        (Part([8], 4, blocks[0], True), Part([9], 3, blocks[1], True)),
    ):
        parts = [first, second]
        replayed.run(parts)
        plain.run(parts)
        assert replayed.hidden.shape == (2, dense.config.hidden_size)
        torch.testing.assert_close(replayed.hidden, plain.hidden)
    assert recorder.replayed == 2


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [Part([1], 0, [0], True)],
        [Part([1, 2], 3, [0, 1], True)],
        [Part([1], 3, [0], 0)],
        [Part([1], 3, [0], True)] * 3,
    ],
    ids=["nothing", "a beginning", "a prompt", "nothing to be sampled", "too many"],
)
def test_other_steps_are_not_replayed(parts: list[Part], dense: Model) -> None:
    recorder = Again()
    graphs = DecodeGraphs(dense, dense.new_cache(4, PAGE), recorder, (1, 2))
    assert graphs.step(parts) is None
    assert not recorder.recorded


def test_a_model_that_cannot_be_recorded_runs_as_usual(dense: Model) -> None:
    cache = dense.new_cache(4, PAGE)
    graphs = DecodeGraphs(dense, cache, Again(refuses=True))
    runner, plain = Runner(dense, cache, graphs=graphs), Runner(dense, dense.new_cache(4, PAGE))
    for one in (runner, plain):
        one.run([Part([1, 2, 3], 0, [0], True)])
    part = Part([4], 3, [0], True)
    with pytest.warns(UserWarning, match="not recorded: it waits"):
        first = runner.run([part])
    assert torch.equal(first, plain.run([part]))
    assert torch.equal(runner.run([part]), first)  # and it is not tried again


def test_what_is_not_wanted_is_not_recorded(dense: Model) -> None:
    assert not dense.numerics.cuda_graphs
    assert decode_graphs(dense, dense.new_cache(1, PAGE)) is None
