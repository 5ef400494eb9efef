"""What a request goes through, and what is told of it when it has ended."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import anyio
import anyio.to_thread
import pytest

from helexa.neuron.app import Neuron
from helexa.neuron.config import NeuronConfig
from helexa.neuron.ids import ModelSpec
from helexa.neuron.runtime import Runtime
from helexa.protocol.openai.chat_answer import ChatAnswer
from helexa.protocol.openai.completion_answer import CompletionAnswer
from helexa.protocol.openai.response_answer import ResponseAnswer
from tests.neuron.daemons import HELLO, TINY, Daemon, endless, running, with_tiny
from tests.waiting import wait_until

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
BODIES: dict[str, Any] = {
    CHAT: {"model": TINY, "messages": HELLO},
    TEXT: {"model": TINY, "prompt": "Hi"},
    "/v1/responses": {"model": TINY, "input": "Hi"},
}
IMAGES = "/v1/images/generations"
PICTURE: Any = {"model": TINY, "prompt": "a cat"}
IMAGE = "data:image/png;base64,iVBORw0KGgo="


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """One seat, two places to wait."""
    with running(with_tiny(seats=1, places=2)) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def empty() -> Iterator[Daemon]:
    """An engine and no model."""
    with running(NeuronConfig(port=0)) as daemon:
        yield daemon


def test_n055_no_harness() -> None:
    with running(NeuronConfig(port=0, harnesses=())) as bare:
        for path, body in {**BODIES, IMAGES: PICTURE}.items():
            answer = bare.http.post(path, json=body, headers={"x-request-id": f"r{path}"})
            assert answer.status_code == 503
            assert answer.json() == {"error": "harness 'candle' is not enabled on this neuron"}
            assert bare.end(f"r{path}")[0] == "request rejected"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [*BODIES, "/tokenize", IMAGES])
def test_n056_not_loaded(empty: Daemon, path: str, stream: bool) -> None:
    body = {**BODIES.get(path, BODIES[TEXT]), "model": "o/absent", "stream": stream}
    answer = empty.http.post(path, json=body)
    assert answer.status_code == 404
    error = answer.json()["error"]
    assert (error["code"], error["model_id"]) == ("model_not_found", "o/absent")
    assert "retry-after" not in answer.headers


def test_a_load_does_not_hold_up_the_end() -> None:
    async def main() -> Neuron:
        neuron = Neuron(NeuronConfig(default_models=(ModelSpec(model_id=TINY),)), Runtime(), {})
        async with neuron.running():
            await anyio.to_thread.run_sync(
                wait_until, lambda: neuron.activation.status.in_progress == TINY
            )
        return neuron

    neuron = anyio.run(main)
    assert (neuron.slots, neuron.activation.status.completed) == ([], ())


def test_n057_chained(empty: Daemon) -> None:
    body = {"model": "m", "input": "Hi", "previous_response_id": "resp_1"}
    answer = empty.http.post("/v1/responses", json=body)
    assert answer.status_code == 400
    assert answer.json()["code"] == "chained_conversation_not_supported"
    assert isinstance(answer.json()["error"], str)


def test_n062_no_tokens_is_an_answer(daemon: Daemon) -> None:
    for path in (CHAT, TEXT):
        answer = daemon.http.post(path, json={**BODIES[path], "max_tokens": 0}).json()
        assert answer["choices"][0]["finish_reason"] == "length"
        assert answer["usage"]["completion_tokens"] == 0


def test_n063_an_image_to_a_model_that_reads_text(daemon: Daemon) -> None:
    part = {"type": "image_url", "image_url": {"url": IMAGE}}
    body = {"model": TINY, "messages": [{"role": "user", "content": [part]}]}
    for path in (CHAT, "/tokenize"):
        answer = daemon.http.post(path, json=body)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (400, "vision_unsupported")
        assert error["model_id"] == TINY
        assert error["suggestion"]


@pytest.mark.parametrize("path", [CHAT, "/tokenize"])
def test_what_is_no_image_of_this_api_is_refused_as_that(daemon: Daemon, path: str) -> None:
    part = {"type": "image", "source": {"type": "base64", "data": "AAAA"}}
    body = {"model": TINY, "messages": [{"role": "user", "content": [part]}]}
    answer = daemon.http.post(path, json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "unsupported_parameter")
    assert error["param"] == "messages[0].content[0]"
    assert "image_url" in error["message"]


@pytest.mark.parametrize("path", [CHAT, TEXT, "/v1/responses"])
def test_n058_a_fault_of_ours_is_told_whole_also_after_the_head(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    def broken(projection: object, event: object) -> None:
        raise ValueError("kaboom") from KeyError("the cause")

    for kind in (ChatAnswer, CompletionAnswer, ResponseAnswer):
        monkeypatch.setattr(kind, "_text", broken)
    headers = {"x-request-id": f"broken-{path}", "connection": "close"}
    whole = daemon.http.post(path, json=BODIES[path], headers={"connection": "close"})
    told = whole.json()["error"]
    assert (whole.status_code, told["code"]) == (500, None)
    assert "kaboom" in told["message"] and "the cause" in told["message"]
    streamed = daemon.http.post(path, json={**BODIES[path], "stream": True}, headers=headers)
    assert streamed.status_code == 200
    last = json.loads(streamed.text.strip().rpartition("data: ")[2])
    error = last["response"]["error"] if "response" in last else last["error"]
    assert error["message"] == told["message"]
    assert streamed.text.count("kaboom") == 1
    assert "[DONE]" not in streamed.text
    assert daemon.end(headers["x-request-id"])[0] == "request failed"


def test_n064_contents(daemon: Daemon) -> None:
    said = {"role": "user", "content": "Hi"}
    for content, status in ((None, 200), ("Hi", 200), (5, 422)):
        messages = [said, {"role": "assistant", "content": content}, said]
        body = {"model": TINY, "messages": messages, "max_tokens": 1}
        assert daemon.http.post(CHAT, json=body).status_code == status


def test_a_plain_completion_keeps_to_its_format(daemon: Daemon) -> None:
    schema = {"type": "integer", "minimum": 10, "maximum": 99}
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    body = {"model": TINY, "prompt": "Age:", "response_format": form, "temperature": 1.5}
    answer = daemon.http.post(TEXT, json=body).json()
    assert 10 <= int(answer["choices"][0]["text"]) <= 99
    form["json_schema"] = {"name": "n", "schema": {"type": "integer", "not": {}}}
    refused = daemon.http.post(TEXT, json={**body, "response_format": form})
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (400, "unsupported_parameter")
    assert error["param"] == "response_format"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", BODIES)
def test_n143_done(daemon: Daemon, path: str, stream: bool) -> None:
    id = f"done{path}{stream}"
    body = {**BODIES[path], "stream": stream, "max_output_tokens": 3, "max_tokens": 3}
    headers = {"x-request-id": id, "x-helexa-account-id": "a", "x-helexa-key-id": "k"}
    daemon.http.post(path, json=body, headers=headers).raise_for_status()
    text, fields = daemon.end(id)
    assert text == "request done"
    assert (fields["model"], fields["principal"]) == (TINY, "a/k")
    assert (fields["stream"], fields["client_gone"]) == (stream, False)
    assert (fields["finish_reason"], fields["completion_tokens"]) == ("length", 3)
    assert fields["prompt_tokens"] > 0
    assert fields["total_ms"] >= fields["prefill_ms"] > 0


def test_n143_rejected(daemon: Daemon) -> None:
    headers = {"x-request-id": "absent"}
    body = {**BODIES[CHAT], "model": "o/absent", "stream": True}
    daemon.http.post(CHAT, json=body, headers=headers)
    text, fields = daemon.end("absent")
    assert text == "request rejected"
    assert (fields["status"], fields["code"]) == (404, "model_not_found")
    assert (fields["model"], fields["model_id"]) == ("o/absent", "o/absent")
    assert fields["stream"] is True


def test_n143_a_rejected_parameter(daemon: Daemon) -> None:
    headers = {"x-request-id": "two"}
    daemon.http.post(CHAT, json={**BODIES[CHAT], "n": 2}, headers=headers)
    text, fields = daemon.end("two")
    assert (text, fields["code"]) == ("request rejected", "unsupported_parameter")
    assert fields["model"] == TINY


@pytest.mark.parametrize(
    ("content", "kind", "code"),
    [
        (b"{not json", "application/json", "malformed_json"),
        (b"{}", "text/plain", "unsupported_media_type"),
        (b"{}", "application/json", "invalid_request_body"),
    ],
)
def test_n143_a_rejected_body(daemon: Daemon, content: bytes, kind: str, code: str) -> None:
    headers = {"x-request-id": f"body-{code}", "content-type": kind}
    daemon.http.post(CHAT, content=content, headers=headers)
    text, fields = daemon.end(f"body-{code}")
    assert (text, fields["code"]) == ("request rejected", code)
    assert (fields["method"], fields["path"]) == ("POST", CHAT)
    assert "model" not in fields


def load(daemon: Daemon) -> tuple[int, int]:
    report = daemon.slot().load_report()
    return report.in_flight, report.queue_depth


@pytest.mark.parametrize("stream", [False, True])
def test_n143_a_client_leaves_while_its_answer_is_made(daemon: Daemon, stream: bool) -> None:
    id = f"left-{stream}"
    with daemon.asking(TEXT, endless(stream=stream), id):
        wait_until(lambda: load(daemon) == (1, 0))
        wait_until(lambda: daemon.slot().model.status().running == 1)
    text, fields = daemon.end(id)
    assert text == "request done"
    assert (fields["finish_reason"], fields["client_gone"]) == ("cancelled", True)
    assert fields["prompt_tokens"] > 0
    wait_until(lambda: load(daemon) == (0, 0))


def test_n143_a_client_leaves_the_queue(daemon: Daemon) -> None:
    with daemon.asking(TEXT, endless(), "runs"):
        wait_until(lambda: load(daemon) == (1, 0))
        with daemon.asking(TEXT, endless(), "waits"):
            wait_until(lambda: load(daemon) == (1, 1))
        text, fields = daemon.end("waits")
        assert (text, fields["client_gone"]) == ("request done", True)
        assert (fields["finish_reason"], fields["completion_tokens"]) == ("cancelled", 0)
        assert load(daemon) == (1, 0)
    assert daemon.end("runs")[1]["finish_reason"] == "cancelled"


def test_n145_an_image_of_a_model_that_writes(daemon: Daemon) -> None:
    headers = {"x-request-id": "picture"}
    answer = daemon.http.post(IMAGES, json=PICTURE, headers=headers)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (422, "wrong_modality")
    assert (error["model_id"], bool(error["suggestion"])) == (TINY, True)
    assert daemon.end("picture")[1]["surface"] == "images"


def test_n142_metrics(daemon: Daemon) -> None:
    before = daemon.metrics()
    ask = {"model": TINY, "messages": HELLO, "max_tokens": 4}
    headers = {"x-request-id": "counted"}
    daemon.http.post(CHAT, json=ask, headers=headers).raise_for_status()
    daemon.http.post(CHAT, json={**ask, "model": "made/up"}, headers={"x-request-id": "refused"})
    daemon.http.get("/models/made%2Fup/endpoint")
    spent = daemon.end("counted")[1]
    daemon.end("refused")
    after = daemon.metrics()

    def more(name: str, **labels: str) -> float:
        key = (name, frozenset(labels.items()))
        return after.get(key, 0) - before.get(key, 0)

    assert more("requests_total", model=TINY, surface="chat", outcome=spent["finish_reason"]) == 1
    assert more("requests_total", model="unknown", surface="chat", outcome="rejected") == 1
    assert more("request_errors_total", model="unknown", code="model_not_found") == 1
    assert more("prompt_tokens_total", model=TINY) == spent["prompt_tokens"]
    assert more("completion_tokens_total", model=TINY) == spent["completion_tokens"]
    for name in ("request_duration", "queue_wait", "time_to_first_token"):
        assert more(f"{name}_seconds_count", model=TINY) == 1
    assert more("http_requests_total", route=CHAT, method="POST", status="200") == 1
    route = "/models/{id}/endpoint"
    assert more("http_requests_total", route=route, method="GET", status="404") == 1
    assert daemon.metric("model_loads_total", model=TINY, result="ok") == 1
    assert daemon.metric("model_load_seconds", model=TINY) > 0
    assert daemon.metric("model_max_in_flight", model=TINY) == 1
    assert not any("made" in value for _, labels in after for _, value in labels)


def test_n144_secrets(daemon: Daemon) -> None:
    headers = {"x-request-id": "quiet", "authorization": "Bearer s3cret-key"}
    said = "a prompt nobody else may read"
    body = {"model": TINY, "messages": [{"role": "user", "content": said}], "max_tokens": 8}
    answer = daemon.http.post(CHAT, json=body, headers=headers)
    daemon.http.post(CHAT, json={**body, "top_k": said}, headers={"x-request-id": "bad"})
    daemon.end("quiet")
    daemon.end("bad")
    text = daemon.log.text()
    assert "s3cret" not in text
    assert said not in text
    written = answer.json()["choices"][0]["message"]["content"]
    assert len(written) < 8 or written not in text


def test_the_queue_is_full(daemon: Daemon) -> None:
    with (
        daemon.asking(TEXT, endless(), "f1"),
        daemon.asking(TEXT, endless(), "f2"),
    ):
        wait_until(lambda: load(daemon) == (1, 1))
        answer = daemon.http.post(TEXT, json=endless(), headers={"x-request-id": "f3"})
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
        assert daemon.end("f3")[1]["code"] == "rate_limit_exceeded"
        labels = {"model": TINY, "reason": "anon_yield"}
        assert daemon.metric("model_rejections_total", **labels) >= 1
    wait_until(lambda: load(daemon) == (0, 0))


def test_a_seat_goes_along_to_the_model_that_is_back(daemon: Daemon) -> None:
    slot, before = daemon.slot(), daemon.slot().door
    with daemon.asking(TEXT, endless(), "goes-on"):
        wait_until(lambda: slot.model.status().running == 1)
        os.kill(daemon.child(), signal.SIGKILL)
        wait_until(lambda: slot.door is not before, 100)
        assert (slot.load_report().in_flight, before.report().in_flight) == (1, 0)
        wait_until(lambda: slot.model.status().running == 1)
    text, fields = daemon.end("goes-on")
    assert (text, fields["client_gone"]) == ("request done", True)
    wait_until(lambda: load(daemon) == (0, 0))
