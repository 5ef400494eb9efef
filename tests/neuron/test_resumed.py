"""Answers that outlive the process they were begun in: on every surface, and several at once."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from helexa.neuron.config import AdmissionConfig, EngineSection, NeuronConfig
from helexa.neuron.ids import ModelSpec
from tests.neuron.daemons import HELLO, TINY, Daemon, running
from tests.neuron.plays import (
    CHAT,
    RESPONSES,
    TEXT,
    Cue,
    Troupe,
    X,
    ask,
    data,
    frames,
    staged,
    streamed,
    wait_for,
    whole,
)
from tests.waiting import wait_until

SEATS = AdmissionConfig(max_in_flight=4, anon_max_in_flight=4)
LONG: dict[str, Any] = {"model": TINY, "prompt": "Once upon a time", "max_tokens": 240}
GREEDY: dict[str, Any] = {**LONG, "ignore_eos": True, "temperature": 0}
SEEDED: dict[str, Any] = {**LONG, "ignore_eos": True, "temperature": 0.8, "seed": 5}
OTHER: dict[str, Any] = {**GREEDY, "prompt": "The river"}
PLACES = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}, "at": {"type": "integer"}},
        "required": ["city", "at"],
        "additionalProperties": False,
    },
    "minItems": 3,
    "maxItems": 3,
}


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """The real model, for whose return requests wait."""
    config = NeuronConfig(
        port=0,
        default_models=(ModelSpec(model_id=TINY),),
        engine=EngineSection(admission=SEATS),
    )
    with running(config) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def stage(troupe: Troupe) -> Iterator[Daemon]:
    with staged(troupe, EngineSection(admission=SEATS)) as daemon:
        yield daemon


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(3) as threads:
        yield threads


def tokens_of(daemon: Daemon) -> float:
    return daemon.metric("completion_tokens_total", model=TINY)


def is_data(line: str) -> bool:
    return line.startswith("data:")


def killed_midway(
    daemon: Daemon,
    body: dict[str, Any],
    others: int,
    path: str = TEXT,
    at: int = 8,
) -> str:
    """What a stream says whose model is killed at frame ``at``, once ``others`` more run too."""
    lines: list[str] = []
    prompt = {"messages": HELLO} if path == CHAT else {}
    with (
        httpx.Client(base_url=daemon.url, timeout=60) as http,
        http.stream("POST", path, json={**prompt, **body, "stream": True}) as answer,
    ):
        for line in answer.iter_lines():
            lines.append(line)
            if is_data(line) and sum(map(is_data, lines)) == at:
                wait_until(lambda: daemon.slot().model.status().running == others + 1)
                os.kill(daemon.child(), signal.SIGKILL)
    return "\n".join(lines)


def text_of(stream: str) -> tuple[str, dict[str, Any]]:
    """The text of a streamed continuation that ended as it should, and its usage."""
    *parts, last = data(stream)
    assert last == "[DONE]"
    chunks = [json.loads(part) for part in parts]
    (usage,) = [chunk["usage"] for chunk in chunks if "usage" in chunk]
    return "".join(c["text"] for chunk in chunks for c in chunk["choices"]), usage


def test_n070_the_same_seed_says_the_same(daemon: Daemon) -> None:
    asked = {**SEEDED, "max_tokens": 20, "temperature": 1.5}
    one, again, other = [
        ask(daemon, body, path=TEXT).json()["choices"][0]["text"]
        for body in (asked, asked, {**asked, "seed": 6})
    ]
    assert one == again
    assert other != one


def test_n136b_resume(daemon: Daemon, pool: ThreadPoolExecutor) -> None:
    """Two streams, greedy and seeded, and a whole answer, as if nothing had happened."""
    calm = [ask(daemon, body, path=TEXT).json() for body in (GREEDY, SEEDED, OTHER)]
    tokens, losses = tokens_of(daemon), daemon.metric
    before = losses("model_recoveries_total", model=TINY, cause="exit")
    second = pool.submit(ask, daemon, {**SEEDED, "stream": True}, path=TEXT)
    third = pool.submit(ask, daemon, OTHER, path=TEXT)
    first = killed_midway(daemon, GREEDY, others=2)
    third_said = third.result().json()
    said = [
        text_of(first),
        text_of(second.result().text),
        (third_said["choices"][0]["text"], third_said["usage"]),
    ]
    assert [text for text, _ in said] == [one["choices"][0]["text"] for one in calm]
    counts = ("prompt_tokens", "completion_tokens", "total_tokens")
    assert [[usage[name] for name in counts] for _, usage in said] == [
        [one["usage"][name] for name in counts] for one in calm
    ]
    assert [usage["completion_tokens"] for _, usage in said] == [LONG["max_tokens"]] * 3
    assert losses("model_recoveries_total", model=TINY, cause="exit") == before + 1
    wait_until(lambda: tokens_of(daemon) == tokens + 3 * LONG["max_tokens"])
    assert daemon.slot().load_report().in_flight == 0


def test_n136b_long_answers(daemon: Daemon) -> None:
    """What was said is a prompt to the next process: it has to compute the same from it."""
    penalties = {"presence_penalty": 0.7, "frequency_penalty": 0.4, "repetition_penalty": 1.2}
    bodies = [{**SEEDED, **penalties, "max_tokens": 250, "seed": seed} for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask, daemon, body, path=TEXT) for body in bodies]
        calm = [answer.result().json()["choices"][0]["text"] for answer in asked]
        others = [pool.submit(ask, daemon, body, path=TEXT) for body in bodies[1:]]
        first = killed_midway(daemon, bodies[0], others=3, at=150)
        said = [answer.result().json()["choices"][0]["text"] for answer in others]
    assert [text_of(first)[0], *said] == calm


def test_n136b_a_constrained_answer(daemon: Daemon) -> None:
    """The grammar goes on where it was: the same object, character by character."""
    form = {"type": "json_schema", "json_schema": {"name": "places", "schema": PLACES}}
    body = {"model": TINY, "temperature": 0, "max_tokens": 300, "response_format": form}
    calm = whole(ask(daemon, body).json())
    told = killed_midway(daemon, body, others=0, path=CHAT)
    said = streamed([json.loads(part) for part in data(told)[:-1]])
    assert (said.content, said.reason) == (calm.content, calm.reason)
    assert said.usage["completion_tokens"] == calm.usage["completion_tokens"]
    assert len(json.loads(said.content)) == 3
    assert sum("city" in place for place in json.loads(said.content)) == 3


def test_n136b_a_response(stage: Daemon, troupe: Troupe) -> None:
    """One run of typed events, numbered through, each text once."""
    play = troupe.play("<think>", "a", "b", Cue("exit", "response"), "c", "</think>", "d", "e")
    answer = ask(stage, {**play, "stream": True}, path=RESPONSES)
    events = [json.loads(part) for part in data(answer.text)]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    names = [event["type"].removeprefix("response.") for event in events]
    assert (names.count("created"), names.count("output_item.added"), names[-1]) == (
        *(1, 2),
        "completed",
    )
    deltas = [event["delta"] for event in events if "delta" in event]
    assert "".join(deltas) == "abcde"
    reasoning, message = events[-1]["response"]["output"]
    assert reasoning["summary"][0]["text"] == "abc"
    assert message["content"][0]["text"] == "de"
    usage = events[-1]["response"]["usage"]
    assert (usage["output_tokens"], usage["output_tokens_details"]) == (7, {"reasoning_tokens": 3})
    wait_for(stage, "loaded")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_n136b_a_call(stage: Daemon, troupe: Troupe, stream: bool) -> None:
    """A model that dies in the middle of a call makes it once, and whole."""
    parts = ('<tool_call>\n{"name": "look", ', '"arguments": {"at": "A"}}\n</tool_call>')
    play = troupe.play("So: ", parts[0], Cue("exit", f"call{stream}"), parts[1], cached=3)
    tools = [{"type": "function", "function": {"name": "look"}}]
    answer = ask(stage, {**play, "tools": tools, "stream": stream})
    said = streamed(frames(answer)) if stream else whole(answer.json())
    assert (said.content, said.reason) == ("So: ", "tool_calls")
    ((name, arguments),) = [
        (call["function"]["name"], json.loads(call["function"]["arguments"])) for call in said.calls
    ]
    assert (name, arguments) == ("look", {"at": "A"})
    assert said.usage["prompt_tokens_details"] == {"cached_tokens": 3}
    wait_for(stage, "loaded")


def test_a_stream_is_told_that_its_model_is_coming_back(stage: Daemon, troupe: Troupe) -> None:
    """The first try to load again fails; the seat is kept, and comments fill the silence."""
    (troupe.of(X) / "broken").touch()
    lives = troupe.builds()
    play = troupe.play("a", Cue("exit", "slow"), "b")
    body = {**play, "messages": HELLO, "stream": True}
    with stage.http.stream("POST", CHAT, json=body) as answer:
        lines = []
        for line in answer.iter_lines():
            lines.append(line)
            if line.startswith(":"):
                assert stage.slot(X).load_report().in_flight == 1
                (troupe.of(X) / "broken").unlink(missing_ok=True)
            if troupe.builds() == lives + 1:
                (troupe.of(X) / "broken").unlink(missing_ok=True)
    said = streamed([json.loads(part) for part in data("\n".join(lines))[:-1]])
    assert (said.content, said.reason) == ("ab", "stop")
    assert ":" in lines
    assert troupe.builds() >= lives + 2


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_two_losses_in_a_row_end_an_answer(stage: Daemon, troupe: Troupe, stream: bool) -> None:
    play = troupe.play("a", Cue("exit", f"1{stream}"), "b", Cue("exit", f"2{stream}"), "c")
    answer = ask(stage, {**play, "stream": stream})
    assert answer.status_code == (200 if stream else 503)
    told = json.loads(data(answer.text)[-1]) if stream else answer.json()
    assert told["error"]["code"] == "model_recovering"
    assert "[DONE]" not in answer.text
    wait_for(stage, "loaded")
    assert ask(stage, troupe.play("well")).status_code == 200  # and no storm
