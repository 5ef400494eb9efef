"""OpenAI's official client, through a gateway, against a real model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import anyio
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.gateway.clients.asked import (
    CITY,
    GOOD,
    HELLO,
    OTHER,
    PARIS,
    PICTURE,
    PONG,
    ROLLING,
    SMALL,
    SPENT,
    SUM,
    SUNNY,
    THIRD,
    TOO_LONG,
    WEATHER,
    user,
)
from tests.gateway.gateway_process import GatewayProcess
from tests.neuron.daemon_process import TINY, Daemon

ASKED: Any = {"model": SMALL, "temperature": 0, "max_tokens": 80}
RESPONSE: Any = {"model": SMALL, "temperature": 0, "max_output_tokens": 80}
TOOL: Any = {"type": "function", "function": WEATHER}
NAMED: Any = {"type": "function", "function": {"name": "get_weather"}}
IMAGE: Any = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PICTURE}"}}
TIMES = {"helexa_timing", "helexa_cache", "prompt_tokens_details"}


def both(client: OpenAI, **asked: Any) -> Any:
    """An answer, after it was seen that the client makes the same of a stream."""
    whole = client.chat.completions.create(**{**ASKED, **asked})
    with client.chat.completions.stream(**{**ASKED, **asked}) as events:
        summed = events.get_final_completion()
    assert told(summed) == told(whole)
    return whole


def told(answer: Any) -> dict[str, Any]:
    """What two answers to one question have in common: all but ids and times."""
    (choice,) = answer.choices
    message = choice.message
    calls = [(c.function.name, c.function.arguments) for c in message.tool_calls or ()]
    reasoned = getattr(message, "reasoning_content", "")
    return {
        **{"said": message.content or "", "thought": reasoned, "calls": calls},
        "usage": answer.usage.model_dump(exclude=TIMES, exclude_none=True),
        **{"model": answer.model, "ends": choice.finish_reason},
    }


def test_a_chat(ours: OpenAI) -> None:
    answer = both(ours, messages=HELLO)
    (choice,) = answer.choices
    assert "tiny" in choice.message.content
    assert (answer.object, answer.model, choice.finish_reason) == ("chat.completion", TINY, "stop")
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens > 20
    assert answer._request_id


def test_a_stream_comes_as_it_is_said(ours: OpenAI) -> None:
    stream = ours.chat.completions.create(**ASKED, messages=HELLO, stream=True)
    first, *_, last = chunks = list(stream)
    assert len(chunks) > 8
    assert first.choices[0].delta.role == "assistant"
    assert last.usage is not None and last.choices == []


def test_the_async_client(gw: GatewayProcess) -> None:
    async def main() -> tuple[str, str]:
        async with AsyncOpenAI(base_url=f"{gw.url}/v1", api_key=GOOD, max_retries=0) as client:
            whole = await client.chat.completions.create(**ASKED, messages=HELLO)
            stream = await client.chat.completions.create(**ASKED, messages=HELLO, stream=True)
            pieces = [c.choices[0].delta.content or "" async for c in stream if c.choices]
            return whole.choices[0].message.content or "", "".join(pieces)

    whole, summed = anyio.run(main)  # trio complains of generators that the client leaves open
    assert whole == summed != ""


def test_the_system_prompt(ours: OpenAI) -> None:
    for role in ("system", "developer"):
        answer = both(ours, messages=[{"role": role, "content": PONG}, *HELLO])
        assert answer.choices[0].message.content == "PONG"


def test_what_was_cut(ours: OpenAI) -> None:
    stopped = both(ours, messages=HELLO, stop=["never said", "tiny"])
    choice = stopped.choices[0]
    assert (choice.finish_reason, choice.stop_reason) == ("stop", "tiny")
    assert choice.message.content.endswith("I am ")
    asked = {**ASKED, "max_tokens": 3}
    short = ours.chat.completions.create(**asked, messages=HELLO)
    assert (told(short)["ends"], told(short)["usage"]["completion_tokens"]) == ("length", 3)
    with (
        pytest.raises(openai.LengthFinishReasonError),  # so says its accumulator
        ours.chat.completions.stream(**asked, messages=HELLO) as events,
    ):
        events.get_final_completion()


def test_thinking(ours: OpenAI) -> None:
    for asked in (
        {"reasoning_effort": "low"},
        {"extra_body": {"chat_template_kwargs": {"enable_thinking": True}}},
    ):
        answer = both(ours, messages=SUM, **asked)
        message = answer.choices[0].message
        assert "19" in message.reasoning_content and "19" in message.content
        assert answer.usage.completion_tokens_details.reasoning_tokens > 0
    silent = both(ours, messages=SUM).choices[0].message
    assert "19" in silent.content and not hasattr(silent, "reasoning_content")
    within = ours.chat.completions.create(
        **ASKED, messages=SUM, extra_headers={"x-include-thinking": "true"}
    )
    assert (within.choices[0].message.content or "").startswith("<think>")


def test_what_the_cache_knew(ours: OpenAI) -> None:
    tale = user("A dog, a hen and a map of the forest were mentioned here, twice. " * 4)
    asked = {**ASKED, "max_tokens": 1}
    first = ours.chat.completions.create(**asked, messages=tale).usage
    again = ours.chat.completions.create(**asked, messages=tale).usage
    assert first is not None and again is not None and again.prompt_tokens_details is not None
    assert again.prompt_tokens == first.prompt_tokens
    assert 0 < (again.prompt_tokens_details.cached_tokens or 0) < again.prompt_tokens


# --- tools ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "calls"),
    [
        ({"messages": PARIS, "tool_choice": "auto"}, True),
        ({"messages": HELLO}, False),
        ({"messages": PARIS, "tool_choice": "none"}, False),
        ({"messages": HELLO, "tool_choice": "required", "parallel_tool_calls": False}, True),
        ({"messages": HELLO, "tool_choice": NAMED}, True),
    ],
    ids=["auto", "unneeded", "none", "required", "named"],
)
def test_the_choice_of_a_tool(ours: OpenAI, asked: dict[str, Any], calls: bool) -> None:
    answer = both(ours, tools=[TOOL], **asked)
    made = told(answer)["calls"]
    assert [name for name, _ in made] == ["get_weather"] * calls
    assert all(list(json.loads(arguments)) == ["city"] for _, arguments in made)
    ends = answer.choices[0].finish_reason
    assert ends == ("tool_calls" if calls else "stop")


def test_a_tool_is_called_and_its_result_is_read(ours: OpenAI) -> None:
    message = both(ours, messages=PARIS, tools=[TOOL]).choices[0].message
    (call,) = message.tool_calls
    result = {"role": "tool", "tool_call_id": call.id, "content": SUNNY}
    answer = both(ours, messages=[*PARIS, message, result], tools=[TOOL])
    assert "sunny" in answer.choices[0].message.content


def test_several_calls_and_their_results(ours: OpenAI) -> None:
    """As a client with calls that were made beside each other sends them back."""
    calls = [
        {"id": f"call_{city}", "type": "function", "function": {"name": "get_weather"}}
        for city in ("Paris", "Oslo")
    ]
    for call, city in zip(calls, ("Paris", "Oslo"), strict=True):
        call["function"] |= {"arguments": json.dumps({"city": city})}  # type: ignore[operator]  # a union
    results = [{"role": "tool", "tool_call_id": call["id"], "content": SUNNY} for call in calls]
    turns = [*PARIS, {"role": "assistant", "content": None, "tool_calls": calls}, *results]
    assert both(ours, messages=turns, tools=[TOOL]).choices[0].finish_reason


def test_an_answer_of_a_form(ours: OpenAI) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "place", "schema": CITY}}
    answer = both(ours, messages=HELLO, response_format=form)
    assert list(json.loads(answer.choices[0].message.content)) == ["city"]


# --- the other surfaces ---------------------------------------------------------------------------


def test_a_text_is_continued(ours: OpenAI) -> None:
    asked: Any = {"model": SMALL, "prompt": "Once upon a time", "temperature": 0, "max_tokens": 6}
    whole = ours.completions.create(**asked)
    chunks = list(ours.completions.create(**asked, stream=True))
    pieces = [chunk.choices[0].text for chunk in chunks if chunk.choices]
    assert "".join(pieces) == whole.choices[0].text != ""


def test_a_response_and_its_events(ours: OpenAI) -> None:
    whole = ours.responses.create(**RESPONSE, input="Hello!")
    assert "tiny" in whole.output_text
    assert (whole.status, whole.model) == ("completed", TINY)
    with ours.responses.stream(**RESPONSE, input="Hello!") as events:
        kinds = [event.type for event in events]
        final = events.get_final_response()
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
    assert final.output_text == whole.output_text
    assert whole.usage is not None and final.usage is not None
    assert final.usage.output_tokens == whole.usage.output_tokens > 5


def test_a_response_calls_a_tool(ours: OpenAI) -> None:
    tool: Any = {"type": "function", **WEATHER}
    history: Any = list(PARIS)
    first = ours.responses.create(**RESPONSE, input=history, tools=[tool])
    (call,) = [item for item in first.output if item.type == "function_call"]
    assert json.loads(call.arguments) == {"city": "Paris"}
    result = {"type": "function_call_output", "call_id": call.call_id, "output": SUNNY}
    history += [*first.output, result]
    assert "sunny" in ours.responses.create(**RESPONSE, input=history, tools=[tool]).output_text


def test_models_are_listed(ours: OpenAI) -> None:
    listed = list(ours.models.list())
    assert [model.id for model in listed] == [TINY, SMALL]
    assert {model.owned_by for model in listed} == {"helexa"}
    one: Any = ours.models.retrieve(SMALL)
    assert (one.loaded, one.tool_call, one.reasoning) == (True, True, True)
    assert one.max_model_len > one.max_input_tokens > 0


# --- errors ---------------------------------------------------------------------------------------

BadRequest, RateLimit = openai.BadRequestError, openai.RateLimitError


@pytest.mark.parametrize(
    ("key", "asked", "kind", "code"),
    [
        ("sk-wrong", {}, openai.AuthenticationError, "invalid_api_key"),
        (GOOD, {"model": "o/absent"}, openai.NotFoundError, "model_not_found"),
        (GOOD, {"n": 2}, BadRequest, "unsupported_parameter"),
        (GOOD, {"messages": TOO_LONG}, BadRequest, "context_length_exceeded"),
        (GOOD, {"messages": user([IMAGE])}, BadRequest, "vision_unsupported"),
        (GOOD, {"seed": -1}, openai.UnprocessableEntityError, "invalid_request_body"),
        (SPENT, {}, RateLimit, "insufficient_quota"),
        (ROLLING, {}, RateLimit, "rate_limit_exceeded"),
    ],
    ids=["key", "model", "parameter", "context", "image", "neuron", "balance", "window"],
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_refusal_is_the_clients_own_class(
    ours: OpenAI,
    key: str,
    asked: dict[str, Any],
    kind: type[openai.APIStatusError],
    code: str,
    stream: bool,
) -> None:
    client = ours.with_options(api_key=key)
    with pytest.raises(kind) as caught:
        client.chat.completions.create(**{**ASKED, "messages": HELLO, **asked}, stream=stream)
    assert caught.value.code == code
    assert caught.value.request_id
    expected = {SPENT: "insufficient_quota", ROLLING: "rate_limit_error"}
    assert caught.value.type == expected.get(key, "invalid_request_error")
    waits = caught.value.response.headers.get("retry-after")
    assert (waits is not None) == (key == ROLLING)
    assert waits is None or 1 <= int(waits) <= 3600


def test_other_surfaces_refuse_alike(ours: OpenAI) -> None:
    long = "word " * 4000
    for ask in (
        lambda: ours.responses.create(model=SMALL, input=long),
        lambda: ours.completions.create(model=SMALL, prompt=long),
    ):
        with pytest.raises(BadRequest) as caught:
            ask()
        assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.UnprocessableEntityError, match="makes text, not images"):
        ours.images.generate(model=SMALL, prompt="a cat")


@contextmanager
def endless(client: OpenAI, key: str, count: int) -> Iterator[None]:
    """So many answers under way for this key, which would not end by themselves."""
    asked: Any = {"model": SMALL, "prompt": "Once", "max_tokens": 900}
    create = client.with_options(api_key=key).completions.create
    with ExitStack() as held:
        for _ in range(count):
            stream = create(**asked, extra_body={"ignore_eos": True}, stream=True)
            next(iter(held.enter_context(stream)))
        yield


def test_seats_are_shared_between_keys(ours: OpenAI, neuron: Daemon) -> None:
    """One key has two; when two keys have all four, a third is told to come back."""
    with endless(ours, GOOD, 2):
        with pytest.raises(RateLimit) as caught:
            ours.completions.create(model=SMALL, prompt="Once")
        assert caught.value.code == "rate_limit_exceeded"
        assert int(caught.value.response.headers["retry-after"]) > 0
        with endless(ours, OTHER, 2), pytest.raises(openai.InternalServerError) as full:
            ours.with_options(api_key=THIRD).completions.create(model=SMALL, prompt="Once")
    assert (full.value.status_code, full.value.code) == (503, "rate_limit_exceeded")
    assert int(full.value.response.headers["retry-after"]) > 0
    neuron.wait_until_idle()  # who leaves frees the seat
