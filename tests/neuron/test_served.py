"""A daemon with a real model, asked by the official client."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from helexa.neuron.app import Neuron
from helexa.neuron.config import NeuronConfig
from helexa.neuron.ids import ModelSpec
from tests.neuron.daemons import HELLO, TINY, Daemon, running
from tests.waiting import wait_until

TOOL: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
WEATHER: Any = [{"role": "user", "content": "What is the weather in Paris?"}]


@dataclass
class Served:
    """A running daemon and who asks it."""

    daemon: Daemon
    client: OpenAI
    http: httpx.Client

    @property
    def neuron(self) -> Neuron:
        return self.daemon.neuron

    @property
    def child(self) -> int:
        return self.daemon.child()


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    config = NeuronConfig(port=0, default_models=(ModelSpec(model_id=TINY),))
    with (
        running(config) as daemon,
        OpenAI(base_url=f"{daemon.url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield Served(daemon, client, daemon.http)


def test_a_chat_is_answered(served: Served) -> None:
    answer = served.client.chat.completions.create(model=TINY, messages=HELLO, temperature=0)
    assert "tiny" in (answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_n084_streamed_and_whole_are_the_same(served: Served) -> None:
    asked: Any = {"model": TINY, "messages": HELLO, "seed": 3, "temperature": 1.0}
    whole = served.client.chat.completions.create(**asked)
    chunks = list(served.client.chat.completions.create(**asked, stream=True))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_a_tool_is_called_and_its_result_used(served: Served) -> None:
    create = served.client.chat.completions.create
    for choice in ("required", {"type": "function", "function": {"name": "get_weather"}}):
        asked: Any = {"tools": [TOOL], "tool_choice": choice, "temperature": 0}
        answer = create(model=TINY, messages=WEATHER, **asked)
        (call,) = answer.choices[0].message.tool_calls or []
        assert call.type == "function"
        assert (call.function.name, json.loads(call.function.arguments)) == (
            "get_weather",
            {"city": "Paris"},
        )
        assert answer.choices[0].finish_reason == "tool_calls"
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny, 21 degrees"}
    messages: Any = [*WEATHER, answer.choices[0].message.model_dump(exclude_none=True), result]
    told = create(model=TINY, messages=messages, tools=[TOOL], temperature=0)
    assert "sunny" in (told.choices[0].message.content or "")


def test_n072_a_schema_is_kept(served: Served) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    form: Any = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}}
    answer = served.client.chat.completions.create(
        model=TINY, messages=HELLO, response_format=form, max_tokens=80
    )
    said = json.loads(answer.choices[0].message.content or "")
    assert isinstance(said["name"], str) and isinstance(said["age"], int)
    assert said.keys() == {"name", "age"}


def test_n085_a_text_is_continued(served: Served) -> None:
    whole = served.client.completions.create(model=TINY, prompt="Once upon a time", max_tokens=8)
    assert whole.choices[0].text
    assert whole.usage is not None
    assert whole.usage.completion_tokens <= 8


def test_responses_are_typed_events_in_order(served: Served) -> None:
    events = list(served.client.responses.create(model=TINY, input="Hello!", stream=True))
    assert [e.type for e in events][:2] == ["response.created", "response.in_progress"]
    assert events[-1].type == "response.completed"
    assert [e.sequence_number for e in events] == list(range(len(events)))
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert events[-1].response.output_text == text != ""


def test_n086_tokens(served: Served) -> None:
    said = served.http.post("/tokenize", json={"model": TINY, "prompt": "Hello there"}).json()
    assert said["count"] == len(said["tokens"])
    back = served.http.post("/detokenize", json={"model": TINY, "tokens": said["tokens"]})
    assert back.json() == {"prompt": "Hello there"}
    chat = served.http.post("/tokenize", json={"model": TINY, "messages": HELLO}).json()
    answer = served.client.chat.completions.create(model=TINY, messages=HELLO)
    assert answer.usage is not None
    assert chat["count"] == answer.usage.prompt_tokens


def test_n056_errors_are_the_clients_own_classes(served: Served) -> None:
    create = served.client.chat.completions.create
    with pytest.raises(openai.NotFoundError) as missing:
        create(model="o/absent", messages=HELLO)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as unsupported:
        create(model=TINY, messages=HELLO, n=2)
    assert (unsupported.value.code, unsupported.value.param) == ("unsupported_parameter", "n")
    with pytest.raises(openai.UnprocessableEntityError):
        create(model=TINY, messages=HELLO, seed=-1)
    with pytest.raises(openai.BadRequestError) as long:
        create(model=TINY, messages=[{"role": "user", "content": "word " * 4000}])
    assert long.value.code == "context_length_exceeded"


def test_the_control_routes_say_what_there_is(served: Served) -> None:
    (info,) = served.http.get("/models").json()
    assert (info["id"], info["status"], info["tool_call"]) == (TINY, "loaded", True)
    assert served.http.get("/health").json()["models"][0]["in_flight"] == 0
    assert served.http.get("/version").json()["package_version"]
    assert served.http.get("/v1/models").json()["data"][0]["id"] == TINY
    assert served.http.get("/models/builtin%3Ahelexa%2Ftiny/endpoint").status_code == 200
    assert served.http.get("/nothing").json()["error"]["code"] == "unknown_url"


def test_n050_load_lifecycle(served: Served) -> None:
    again = served.http.post("/models/load", json={"model_id": TINY})
    assert (again.status_code, again.json()) == (400, {"error": f"model '{TINY}' already loaded"})
    assert served.http.post("/models/unload", json={}).json() == {"error": "missing model_id"}
    pid = served.child
    assert served.http.post("/models/unload", json={"model_id": TINY}).status_code == 200
    assert not Path(f"/proc/{pid}").exists()  # its memory is free when the answer is sent
    assert served.http.get("/models").json() == []
    assert served.http.post("/models/unload", json={"model_id": TINY}).status_code == 404
    loaded = served.http.post("/models/load", json={"model_id": TINY})
    assert loaded.json() == {"status": "loaded"}


@pytest.mark.parametrize("sampling", [{"temperature": 0}, {"temperature": 0.8, "seed": 5}])
def test_n136b_an_answer_survives_its_child(served: Served, sampling: dict[str, Any]) -> None:
    asked: Any = {"prompt": "Once upon a time", "max_tokens": 300, **sampling}
    asked |= {"model": TINY, "extra_body": {"ignore_eos": True}}
    calm = served.client.completions.create(**asked)
    pieces = []
    with served.client.completions.create(**asked, stream=True) as stream:
        for chunk in stream:
            pieces.append(chunk)
            if len(pieces) == 20:
                os.kill(served.child, signal.SIGKILL)
    text = "".join(chunk.choices[0].text for chunk in pieces if chunk.choices)
    assert text == calm.choices[0].text
    usage = pieces[-1].usage
    assert usage is not None
    assert usage.completion_tokens == 300
    assert served.http.get("/models").json()[0]["status"] == "loaded"


def test_a_client_that_leaves_gives_its_seat_back(served: Served) -> None:
    body = {"model": TINY, "prompt": "Once", "max_tokens": 3000, "stream": True, "ignore_eos": True}
    with served.http.stream("POST", "/v1/completions", json=body) as stream:
        lines = stream.iter_lines()  # kept: collected as garbage, it would close the connection
        assert stream.status_code == 200, list(lines)
        next(lines)
        load = served.neuron.registry.slots[TINY].load_report()
        assert load.in_flight == 1
    slot = served.neuron.registry.slots[TINY]
    wait_until(lambda: slot.load_report().in_flight == 0)
    wait_until(lambda: slot.model.status().running == 0)
