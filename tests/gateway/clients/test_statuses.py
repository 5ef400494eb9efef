"""Every status that a gateway can answer, as the exceptions of the official clients; over mocks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import openai
import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from tests.gateway.clients.asked import HELLO
from tests.gateway.front import Front, front
from tests.gateway.mock_setups import EVENTS, chunk, frame, refusing
from tests.gateway.mocks import CHAT, RESET, SILENT, MockNeuron, Reply, Setup, gone, mock_neuron

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """One will do: it is the clients that are looked at."""
    return "asyncio"


ASKED: Any = {"model": "test-model", "max_tokens": 9, "messages": HELLO}


class Clients:
    """Both, and what each of them raises."""

    def __init__(self, gw: Front) -> None:
        self.gw = gw
        url = gw.server.url
        self.ours = AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        self.theirs = AsyncAnthropic(base_url=url, api_key="none", max_retries=0)

    async def raised(self, **asked: Any) -> tuple[openai.APIError, anthropic.APIError]:
        """By a question to which there is no answer."""
        with pytest.raises(openai.APIError) as ours:
            await self.ours.chat.completions.create(**{**ASKED, **asked})
        with pytest.raises(anthropic.APIError) as theirs:
            await self.theirs.messages.create(**{**ASKED, **asked})
        return ours.value, theirs.value


def nobody(mock: MockNeuron) -> None:
    """Stands for a neuron that is not there."""


@asynccontextmanager
async def clients(setup: Setup = lambda mock: None, **more: Any) -> AsyncIterator[Clients]:
    """Of a gateway in front of a mock, or of an address where nobody listens."""
    async with (
        mock_neuron(setup) as mock,
        front({"node": gone()} if setup is nobody else mock, **more) as gw,
    ):
        made = Clients(gw)
        async with made.ours, made.theirs:
            yield made


@pytest.mark.parametrize(
    ("status", "ours", "theirs", "kind"),
    [
        (400, "BadRequestError", "BadRequestError", "invalid_request_error"),
        (401, "AuthenticationError", "AuthenticationError", "authentication_error"),
        (403, "PermissionDeniedError", "PermissionDeniedError", "permission_error"),
        (404, "NotFoundError", "NotFoundError", "not_found_error"),
        (409, "ConflictError", "ConflictError", "invalid_request_error"),
        (413, "APIStatusError", "ContentTooLargeError", "request_too_large"),
        (422, "UnprocessableEntityError", "UnprocessableEntityError", "invalid_request_error"),
        (429, "RateLimitError", "RateLimitError", "rate_limit_error"),
        (500, "InternalServerError", "InternalServerError", "api_error"),
        (501, "InternalServerError", "HTTPNotImplementedError", "api_error"),
        (503, "InternalServerError", "ServiceUnavailableError", "overloaded_error"),
        (529, "InternalServerError", "OverloadedError", "overloaded_error"),
    ],
)
async def test_what_a_neuron_answers(status: int, ours: str, theirs: str, kind: str) -> None:
    async with clients(refusing(status, 6, "its_code", "its words")) as asking:
        await check(asking, status, (ours, theirs, kind), stream=False)
        await check(asking, status, (ours, theirs, kind), stream=True)


async def check(asking: Clients, status: int, names: tuple[str, str, str], *, stream: bool) -> None:
    """What both clients raise for an answer of the neuron."""
    ours, theirs, kind = names
    mine, yours = await asking.raised(stream=stream)
    for error in (mine, yours):
        assert isinstance(error, openai.APIStatusError | anthropic.APIStatusError)
        assert error.response.headers["retry-after"] == "6"
        assert error.request_id and "," not in error.request_id
        assert error.status_code == status
    assert type(mine) is getattr(openai, ours)
    assert (mine.code, mine.type) == ("its_code", "rate_limit_error")  # the neuron's own words
    assert type(yours) is getattr(anthropic, theirs)
    body: Any = yours.body
    assert body["error"] == {"type": kind, "message": "its words", "code": "its_code"}


SLOW = {"proxy": {"first_byte_timeout_secs": 0.2, "non_stream_timeout_secs": 0.2}}


@pytest.mark.parametrize(
    ("setup", "more", "status", "waits", "kind"),
    [
        (nobody, {}, 502, None, "api_error"),
        (nobody, {"seeded": False}, 503, "5", "overloaded_error"),
        (lambda mock: mock.on(CHAT, RESET), {}, 502, None, "api_error"),
        (lambda mock: mock.on(CHAT, SILENT), SLOW, 504, None, "timeout_error"),
        (lambda mock: None, {"limits": {"max_body_bytes": 50}}, 413, None, "request_too_large"),
    ],
    ids=["refused", "nobody", "reset", "silent", "too large"],
)
async def test_what_the_gateway_answers(
    setup: Any, more: Any, status: int, waits: str | None, kind: str
) -> None:
    async with clients(setup, **more) as asking:
        mine, yours = await asking.raised()
        assert isinstance(mine, openai.APIStatusError)
        assert isinstance(yours, anthropic.APIStatusError)
        assert (mine.status_code, yours.status_code) == (status, status)
        assert isinstance(mine, openai.InternalServerError) == (status >= 500)
        assert isinstance(yours, anthropic.InternalServerError) == (status >= 500)
        body: Any = yours.body
        assert body["error"]["type"] == kind
        for error in (mine, yours):
            assert error.response.headers.get("retry-after") == waits


async def test_a_gateway_on_its_way_out() -> None:
    async with clients() as asking:
        asking.gw.state.draining = True
        for error in await asking.raised():
            assert isinstance(error, openai.APIStatusError | anthropic.APIStatusError)
            assert (error.status_code, error.response.headers["retry-after"]) == (503, "5")


def saying(*more: bytes, then: Any = "end") -> Setup:
    """Two tokens of a stream, and what comes after them."""
    said = [
        frame(chunk("test-model", [{"index": 0, "delta": {"content": text}}]))
        for text in ("one ", "two ")
    ]
    return lambda mock: mock.on(CHAT, Reply(200, (*said, *more), EVENTS, then=then))


BROKEN = {
    "reset": saying(then="reset"),
    "error": saying(frame({"error": {"message": "out of luck", "type": "api_error"}})),
    "silence": saying(then="silence"),
}


@pytest.mark.parametrize("how", BROKEN)
async def test_what_breaks_in_the_middle(how: str) -> None:
    """Both clients raise: half an answer never looks like a whole one."""
    idle = {"proxy": {"idle_timeout_secs": 1.0}} if how == "silence" else {}
    async with clients(BROKEN[how], **idle) as asking:
        heard: list[str] = []
        stream = await asking.ours.chat.completions.create(**ASKED, stream=True)
        with pytest.raises(openai.APIError) as mine:
            await hear(stream, heard)
        assert heard == ["one ", "two "]
        async with asking.theirs.messages.stream(**ASKED) as events:
            with pytest.raises(anthropic.APIStatusError) as yours:
                await events.get_final_message()
        body: Any = yours.value.body
        assert body["error"]["type"] == "api_error"
        if how == "error":
            assert mine.value.message == body["error"]["message"] == "out of luck"


async def hear(stream: Any, heard: list[str]) -> None:
    """Take down what a stream says until it ends or breaks."""
    async for part in stream:
        heard += [choice.delta.content for choice in part.choices]
