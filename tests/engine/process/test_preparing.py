"""Grammars are compiled beside the steps: what runs goes on, and who left is forgotten."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import Queue

import pytest

from helexa.engine.config import EngineConfig
from helexa.engine.core_loop import Abort, Message, Refused, Submit
from helexa.engine.masks import GrammarSpec
from helexa.engine.outputs import Request, StepOutput
from helexa.engine.params import SamplingParams
from helexa.engine.process.children import Nursery
from helexa.engine.process.host import ProcessHost
from helexa.engine.process.messages import Build
from helexa.engine.process.preparing import Preparation
from helexa.errors import EngineLost, UnsupportedGrammar
from helexa.opening import CHILD
from tests.cores import LONG, Controls, Panic
from tests.test_host import read_all
from tests.waiting import wait_until

ROOT = Path(__file__).parents[3]
ANY = GrammarSpec("json_object", "")
FREE = Request((1, 2), SamplingParams(max_tokens=3))
BOUND = Request((1, 2), SamplingParams(max_tokens=3), grammar=ANY)


@pytest.fixture
def host(controls: Controls, nursery: Nursery) -> Iterator[ProcessHost]:
    host = ProcessHost(controls.order, nursery)
    host.start()
    yield host
    host.close()


def test_answers_go_on_while_a_grammar_is_made(host: ProcessHost, controls: Controls) -> None:
    running: Queue[StepOutput] = Queue()
    free: Queue[StepOutput] = Queue()
    bound: Queue[StepOutput] = Queue()
    host.submit(LONG, running.put)
    controls.hold_preparing()
    host.submit(BOUND, bound.put)
    controls.wait_for_preparing()
    told = running.qsize()
    host.submit(FREE, free.put)
    assert read_all(free)[0] == [0, 1, 2]  # it waits for nobody
    wait_until(lambda: running.qsize() > told + 20, 20)
    assert bound.empty()
    controls.release_preparing()
    assert read_all(bound)[0] == [0, 1, 2]


def test_who_leaves_while_a_grammar_is_made_is_forgotten(
    host: ProcessHost, controls: Controls
) -> None:
    left: Queue[StepOutput] = Queue()
    stays: Queue[StepOutput] = Queue()
    controls.hold_preparing()
    id = host.submit(Request((1,), LONG.params, grammar=ANY), left.put)
    controls.wait_for_preparing()
    host.submit(BOUND, stays.put)
    host.abort(id)
    host.submit(FREE, stays.put)
    read_all(stays)  # it came after the abort, so that has been read
    controls.release_preparing()
    assert read_all(stays)[0] == [0, 1, 2]
    assert left.empty()
    assert controls.aborted == []  # the core never knew it
    assert host.status().running == 0


def test_a_grammar_that_is_not_to_be_had_fails_its_request(host: ProcessHost) -> None:
    bad: Queue[StepOutput] = Queue()
    spec = GrammarSpec("json_object", "unheard of")
    host.submit(Request((1,), FREE.params, grammar=spec), bad.put)
    error = read_all(bad)[1].error
    assert isinstance(error, UnsupportedGrammar)
    assert error.param == "response_format"


def test_an_abort_of_what_is_ready_comes_behind_it() -> None:
    inbox: Queue[Message] = Queue()
    preparation = Preparation(lambda request: None, inbox.put)
    wanted = Submit(7, BOUND, lambda output: None)
    preparation.submit(wanted)
    assert inbox.get(timeout=10) is wanted
    preparation.abort(Abort(7))
    assert inbox.get(timeout=10) == Abort(7)


def test_a_panic_over_a_grammar_is_told() -> None:
    def prepare(request: Request) -> None:
        raise Panic("index out of bounds")

    inbox: Queue[Message] = Queue()
    Preparation(prepare, inbox.put).submit(Submit(7, BOUND, lambda output: None))
    told = inbox.get(timeout=10)
    assert isinstance(told, Refused)
    assert told.error.status == 500
    assert not isinstance(told.error, EngineLost)  # which is no request's own


def costly() -> GrammarSpec:
    """It takes about a second."""
    inner = {f"q{j}": {"type": "integer"} for j in range(20)}
    thing = {"type": "object", "properties": inner, "additionalProperties": False}
    outer = {f"p{i}": thing for i in range(200)}
    whole = {"type": "object", "properties": outer, "additionalProperties": False}
    return GrammarSpec("json_schema", json.dumps(whole), reasoning=False)


def test_a_real_model_steps_while_it_compiles() -> None:
    nursery = Nursery(warm=False, builder=CHILD)
    host = ProcessHost(Build("tiny", EngineConfig(device="cpu")), nursery)
    running: Queue[StepOutput] = Queue()
    begun = threading.Event()
    try:
        host.start()
        endless = SamplingParams(max_tokens=3000, ignore_eos=True)
        host.submit(Request(tuple(range(40, 60)), endless), running.put)
        running.get(timeout=60)
        bound = Request(tuple(range(40, 60)), SamplingParams(max_tokens=2), grammar=costly())
        told = running.qsize()
        host.submit(bound, lambda output: begun.set())
        assert begun.wait(60)
        assert running.qsize() > told + 15
    finally:
        host.close()
        nursery.close()
