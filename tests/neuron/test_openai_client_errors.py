"""What is refused or has to wait, as the official client sees it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import anyio
import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from helexa.neuron.app import Neuron
from helexa.neuron.config import Http, NeuronConfig
from helexa.neuron.runtime import Runtime
from tests.neuron.daemons import TINY, Daemon
from tests.waiting import wait_until

HELLO: Any = [{"role": "user", "content": "Hello!"}]
IMAGE: Any = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
ENDLESS: Any = {
    "model": TINY,
    "prompt": "Once",
    "max_tokens": 3000,
    "stream": True,
    "extra_body": {"ignore_eos": True},
}
KEY = {"x-helexa-account-id": "a", "x-helexa-key-id": "k"}


@pytest.mark.parametrize(
    ("asked", "kind", "code", "param"),
    [
        ({"n": 2}, openai.BadRequestError, "unsupported_parameter", "n"),
        ({"functions": []}, openai.BadRequestError, "unsupported_parameter", "functions"),
        ({"modalities": ["audio"]}, openai.BadRequestError, "unsupported_parameter", "modalities"),
        ({"top_logprobs": 21}, openai.BadRequestError, "invalid_value", "top_logprobs"),
        ({"stop": ["x"] * 17}, openai.BadRequestError, "invalid_value", "stop"),
        ({"messages": []}, openai.BadRequestError, "invalid_value", "messages"),
        ({"tool_choice": "required"}, openai.BadRequestError, "invalid_value", "tool_choice"),
        ({"logit_bias": {"1000000": 1}}, openai.BadRequestError, "invalid_value", "logit_bias"),
        (
            {"messages": [{"role": "user", "content": IMAGE}]},
            openai.BadRequestError,
            "vision_unsupported",
            None,
        ),
        ({"seed": -1}, openai.UnprocessableEntityError, "invalid_request_body", "seed"),
        (
            {"temperature": "hot"},
            openai.UnprocessableEntityError,
            "invalid_request_body",
            "temperature",
        ),
        (
            {"messages": [{"role": "user", "content": 5}]},
            openai.UnprocessableEntityError,
            "invalid_request_body",
            "messages[0].content",
        ),
        ({"model": "o/absent"}, openai.NotFoundError, "model_not_found", None),
    ],
    ids=lambda case: ", ".join(case) if isinstance(case, dict) else "",
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_refusal_is_the_clients_own_class(
    client: OpenAI,
    asked: Any,
    kind: type[openai.APIStatusError],
    code: str,
    param: Any,
    stream: bool,
) -> None:
    with pytest.raises(kind) as caught:
        client.chat.completions.create(
            **{"model": TINY, "messages": HELLO, **asked, "stream": stream}
        )
    assert (caught.value.code, caught.value.param) == (code, param)
    assert caught.value.type == "invalid_request_error"
    assert "retry-after" not in caught.value.response.headers
    assert caught.value.request_id


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"prompt": [10**6]}, "prompt"),
        ({"extra_body": {"stop_token_ids": [10**6]}}, "stop_token_ids"),
    ],
    ids=["prompt", "stop_token_ids"],
)
def test_a_token_that_does_not_exist_is_refused_before_the_head(
    client: OpenAI, asked: Any, param: str, stream: bool
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(**{"model": TINY, "prompt": "Once", **asked, "stream": stream})
    assert (caught.value.code, caught.value.param) == ("invalid_value", param)


def test_n134_a_prompt_over_the_derived_limit(daemon: Daemon, client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=TINY, prompt="word " * 4000)
    error: Any = caught.value.body
    assert caught.value.code == "context_length_exceeded"
    assert error["prompt_len"] > error["max"] > 0
    assert f"maximum context length is {error['max']} tokens" in caught.value.message
    limit = daemon.neuron.registry.slots[TINY].model_info().limit
    assert limit is not None and limit.input == error["max"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": HELLO}),
        ("/v1/chat/completions", {"messages": HELLO, "stream": True}),
        ("/v1/responses", {"input": "Hello!"}),
        ("/v1/responses", {"input": "Hello!", "stream": True}),
        ("/v1/completions", {"prompt": "Hello"}),
        ("/v1/tokenize", {"prompt": "Hello"}),
        ("/v1/detokenize", {"tokens": [1]}),
    ],
)
def test_n056_a_model_that_is_not_loaded(http: httpx.Client, path: str, body: Any) -> None:
    answer = http.post(path, json={"model": "o/absent", **body})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (404, "model_not_found", None)
    assert error["model_id"] == "o/absent"


def test_a_text_model_makes_no_images(client: OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="makes text, not images"):
        client.images.generate(model=TINY, prompt="a cat")


# --- seats ---------------------------------------------------------------------------------------


@contextmanager
def running(client: OpenAI, count: int, headers: Any = None) -> Iterator[list[Any]]:
    """So many answers under way, which would not end by themselves."""
    with ExitStack() as held:
        yield [
            held.enter_context(client.completions.create(**ENDLESS, extra_headers=headers))
            for _ in range(count)
        ]


@pytest.fixture
def calm(daemon: Daemon) -> Iterator[None]:
    """Nobody else is served before the test, and nobody is left over after it."""
    slot = daemon.neuron.registry.slots[TINY]
    wait_until(lambda: slot.load_report().in_flight == 0)
    yield
    wait_until(lambda: slot.load_report().in_flight == 0)


@pytest.mark.usefixtures("calm")
def test_n107_one_caller_has_only_so_many_at_a_time(client: OpenAI) -> None:
    with running(client, 2, KEY), pytest.raises(openai.RateLimitError) as caught:
        client.completions.create(model=TINY, prompt="Once", extra_headers=KEY)
    assert (caught.value.code, caught.value.type) == ("rate_limit_exceeded", "rate_limit_error")
    assert int(caught.value.response.headers["retry-after"]) > 0


@pytest.mark.usefixtures("calm")
def test_n104_a_full_house_says_when_to_come_back(client: OpenAI, daemon: Daemon) -> None:
    other = {**KEY, "x-helexa-key-id": "other"}
    slot = daemon.neuron.registry.slots[TINY]
    with (
        ThreadPoolExecutor(1) as pool,  # left last: the seat comes when the others have gone
        running(client, 2, KEY),
        running(client, 2, other),
    ):
        create = client.completions.create
        seat = pool.submit(create, model=TINY, prompt="Once", max_tokens=1, timeout=60)
        wait_until(lambda: slot.load_report().queue_depth == 1)
        with pytest.raises(openai.InternalServerError) as caught:
            create(model=TINY, prompt="Once")
    assert (caught.value.status_code, caught.value.code) == (503, "rate_limit_exceeded")
    assert int(caught.value.response.headers["retry-after"]) > 0
    assert seat.result().choices


@pytest.mark.usefixtures("calm")
def test_n083_the_head_comes_with_the_seat(client: OpenAI, daemon: Daemon) -> None:
    slot = daemon.neuron.registry.slots[TINY]
    with ThreadPoolExecutor(1) as pool, running(client, 3) as streams:  # all anonymous seats
        late = pool.submit(lambda: client.completions.create(**ENDLESS))
        wait_until(lambda: slot.load_report().queue_depth == 1)
        assert not late.done()
        streams[0].close()
        with late.result(60) as stream:
            assert stream.response.status_code == 200
            assert next(iter(stream)).choices


@pytest.mark.usefixtures("calm")
def test_n081_a_silent_stream_says_that_it_lives(http: httpx.Client, daemon: Daemon) -> None:
    body = {"model": TINY, "messages": HELLO, "stream": True, "ignore_eos": True}
    with http.stream("POST", "/v1/chat/completions", json=body) as answer:
        lines = answer.iter_lines()
        assert next(lines).startswith("data: ")
        os.kill(daemon.child(), signal.SIGSTOP)
        try:
            assert any(line == ":" for line in lines)
        finally:
            os.kill(daemon.child(), signal.SIGCONT)


# --- daemons without a model ---------------------------------------------------------------------


def asked_of(neuron: Neuron, key: str = "none", messages: Any = HELLO) -> openai.APIStatusError:
    """What the async client raises when it asks a daemon that has not even been started."""

    async def main() -> openai.APIStatusError:
        transport = httpx.ASGITransport(neuron.asgi())
        async with (
            httpx.AsyncClient(transport=transport) as inner,
            AsyncOpenAI(
                base_url="http://x/v1", api_key=key, max_retries=0, http_client=inner
            ) as client,
        ):
            with pytest.raises(openai.APIStatusError) as caught:
                await client.chat.completions.create(model=TINY, messages=messages)
            return caught.value

    return anyio.run(main)


def test_n055_a_daemon_without_an_engine() -> None:
    error = asked_of(Neuron(NeuronConfig(port=0, harnesses=()), Runtime(), {}))
    assert isinstance(error, openai.InternalServerError)
    flat = {"error": "harness 'candle' is not enabled on this neuron"}
    assert (error.status_code, error.response.json()) == (503, flat)


def test_n125_a_bearer_is_the_clients_api_key() -> None:
    neuron = Neuron(NeuronConfig(port=0, auth_env="KEY"), Runtime(), {"KEY": "right"})
    wrong = asked_of(neuron, "wrong")
    assert isinstance(wrong, openai.AuthenticationError)
    assert wrong.code == "invalid_api_key"
    assert isinstance(asked_of(neuron, "right"), openai.NotFoundError)


def test_a_mounted_daemon_keeps_its_limit_of_bodies() -> None:
    neuron = Neuron(NeuronConfig(port=0, http=Http(max_body_mb=1)), Runtime(), {})
    error = asked_of(neuron, messages=[{"role": "user", "content": "x" * 2**20}])
    assert (error.status_code, error.code) == (413, "request_too_large")


def test_a_daemon_that_ends_says_so() -> None:
    neuron = Neuron(NeuronConfig(port=0), Runtime(), {})
    neuron.stop_taking()
    error = asked_of(neuron)
    assert (error.status_code, error.code) == (503, "shutting_down")
    assert error.response.headers["retry-after"] == "15"
