"""The responses API through the official client, against a real model."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Literal

import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel

from tests.neuron.daemons import TINY

ASKED: Any = {"model": TINY, "temperature": 0, "max_output_tokens": 120}
SUM = "What is 12 + 7?"
PARIS = "What is the weather in Paris?"
WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the weather in a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
MESSAGE = ["output_item.added", "content_part.added", "output_text.delta"]
CLOSED = ["output_text.done", "content_part.done", "output_item.done", "completed"]
THOUGHT = [
    *("output_item.added", "reasoning_summary_part.added", "reasoning_summary_text.delta"),
    *("reasoning_summary_text.done", "reasoning_summary_part.done", "output_item.done"),
]
CALL = [
    *("output_item.added", "function_call_arguments.delta", "function_call_arguments.done"),
    "output_item.done",
]


def steps(events: Sequence[Any]) -> list[str]:
    """The names of events without their prefix; deltas that follow each other are one step."""
    names = [event.type.removeprefix("response.") for event in events]
    return [
        name
        for at, name in enumerate(names)
        if not (name.endswith("_text.delta") and at and names[at - 1] == name)
    ]


def streamed(client: OpenAI, **asked: Any) -> list[Any]:
    """All events; numbered without a gap, and the last one tells what the items said."""
    events: list[Any] = list(client.responses.create(**{**ASKED, **asked}, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    done = [event.item for event in events if event.type == "response.output_item.done"]
    places = [event.output_index for event in events if event.type == "response.output_item.done"]
    final = events[-1].response
    assert [item.id for _, item in sorted(zip(places, done, strict=True), key=lambda p: p[0])] == [
        item.id for item in final.output
    ]
    return events


def test_n093_a_text_comes_in_typed_events(client: OpenAI) -> None:
    events = streamed(client, input="Hello!")
    assert steps(events) == ["created", "in_progress", *MESSAGE, *CLOSED]
    first, final = events[0].response, events[-1].response
    assert (first.status, first.output) == ("in_progress", [])
    assert re.fullmatch("resp_[0-9a-f]{32}", first.id) and first.id == final.id
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    assert len({(event.item_id, event.output_index, event.content_index) for event in deltas}) == 1
    said = "".join(event.delta for event in deltas)
    (told,) = [event.text for event in events if event.type == "response.output_text.done"]
    assert said == told == final.output_text != ""
    assert (final.status, final.model, final.object) == ("completed", TINY, "response")
    usage = final.usage
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens


def test_n095_reasoning_comes_before_the_message(client: OpenAI) -> None:
    events = streamed(client, input=SUM, reasoning={"effort": "low"})
    assert steps(events) == ["created", "in_progress", *THOUGHT, *MESSAGE, *CLOSED]
    final = events[-1].response
    assert [item.type for item in final.output] == ["reasoning", "message"]
    thought = "".join(
        event.delta for event in events if event.type == "response.reasoning_summary_text.delta"
    )
    assert final.output[0].summary[0].text == thought != ""
    assert final.usage.output_tokens_details.reasoning_tokens > 0


def test_n097_a_call_is_an_item_of_its_own(client: OpenAI) -> None:
    events = streamed(client, input=PARIS, tools=[WEATHER])
    opened = ["output_item.added", "content_part.added"]
    assert steps(events) == ["created", "in_progress", *opened, *CALL, *CLOSED]
    final = events[-1].response
    assert [item.type for item in final.output] == ["message", "function_call"]
    (told,) = [e for e in events if e.type == "response.function_call_arguments.done"]
    call = final.output[1]
    assert (told.name, told.item_id, told.output_index) == ("get_weather", call.id, 1)
    assert json.loads(told.arguments) == json.loads(call.arguments) == {"city": "Paris"}
    assert re.fullmatch("call_[0-9a-f]{32}", call.call_id)


@pytest.mark.parametrize(
    "asked",
    [
        {"input": "Hello!"},
        {"input": SUM, "reasoning": {"effort": "low"}},
        {"input": PARIS, "tools": [WEATHER]},
        {"input": PARIS, "tools": [WEATHER], "tool_choice": "none"},
        {"input": "Hello!", "max_output_tokens": 3},
    ],
    ids=["text", "reasoning", "call", "no-call", "cut"],
)
def test_n102_both_modes_say_the_same(client: OpenAI, asked: dict[str, Any]) -> None:
    final = streamed(client, **asked)[-1].response
    whole = client.responses.create(**{**ASKED, **asked})
    assert (whole.status, whole.incomplete_details) == (final.status, final.incomplete_details)
    assert whole.output_text == final.output_text

    def content(item: Any) -> dict[str, Any]:
        return item.model_dump(exclude={"id", "call_id"})  # which are made anew for each answer

    assert [content(item) for item in whole.output] == [content(item) for item in final.output]
    assert whole.usage is not None
    assert whole.usage.output_tokens == final.usage.output_tokens


def test_n096_an_answer_that_was_cut_is_incomplete(client: OpenAI) -> None:
    cut = client.responses.create(**{**ASKED, "max_output_tokens": 2}, input="Hello!")
    assert cut.status == "incomplete"
    assert cut.incomplete_details is not None
    assert cut.incomplete_details.reason == "max_output_tokens"
    (message,) = cut.output
    assert message.type == "message" and message.status == "incomplete"
    events = streamed(client, input=SUM, reasoning={"effort": "low"}, max_output_tokens=3)
    assert steps(events)[-5:] == ["content_part.added", *CLOSED]
    assert events[-1].response.status == "incomplete"


def test_the_clients_own_accumulator(client: OpenAI) -> None:
    with client.responses.stream(**ASKED, input=PARIS, tools=[WEATHER]) as events:
        kinds = [event.type for event in events]
        final = events.get_final_response()
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
    assert [item.type for item in final.output] == ["message", "function_call"]


def test_a_count_of_guessed_tokens_is_more_than_the_client_knows(client: OpenAI) -> None:
    """It keeps a field that is none of its type, in a response and in the last event."""
    asked: Any = {"ignore_eos": True, "speculative": True}
    repeat = "Repeat exactly: red green blue red green blue red green blue"
    whole = client.responses.create(**ASKED, input=repeat, extra_body=asked)
    final = streamed(client, input=repeat, extra_body=asked)[-1].response
    for usage in (whole.usage, final.usage):
        counts = usage.to_dict()["helexa_drafts"]
        assert 0 < counts["accepted"] <= counts["drafted"]


def test_a_round_trip(client: OpenAI) -> None:
    """The items of a response go back as input, as the client itself writes them out."""
    history: Any = [{"role": "user", "content": PARIS}]
    asked: Any = {**ASKED, "tools": [WEATHER], "instructions": "Be brief."}
    first = client.responses.create(**asked, input=history)
    history += first.output
    (call,) = [item for item in first.output if item.type == "function_call"]
    result = {
        "type": "function_call_output",
        "call_id": call.call_id,
        "output": "sunny, 21 degrees",
    }
    second = client.responses.create(**asked, input=[*history, result])
    assert "sunny" in second.output_text
    assert second.instructions == "Be brief."


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "get_weather"}])
def test_a_call_can_be_required(client: OpenAI, choice: Any) -> None:
    asked: Any = {**ASKED, "tools": [WEATHER], "tool_choice": choice, "parallel_tool_calls": False}
    answer = client.responses.create(**asked, input="Hello!")
    (call,) = [item for item in answer.output if item.type == "function_call"]
    assert call.name == "get_weather"
    assert answer.output_text == ""
    assert isinstance(json.loads(call.arguments), dict)


class Pet(BaseModel):
    """A class that the client turns into a schema."""

    kind: Literal["cat", "goat"]
    tame: bool


def test_the_client_parses_an_answer_into_a_class(client: OpenAI) -> None:
    answer = client.responses.parse(**ASKED, input="Which pet?", text_format=Pet)
    assert isinstance(answer.output_parsed, Pet)


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format"),
    ],
    ids=["background", "conversation", "prompt", "format"],
)
def test_what_is_not_offered_is_refused(client: OpenAI, asked: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**ASKED, input="Hello!", **asked)
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", param)


def test_n057_earlier_responses_are_not_kept(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**ASKED, input="Hello!", previous_response_id="resp_1")
    flat = caught.value.response.json()
    assert flat["code"] == "chained_conversation_not_supported"
    assert isinstance(flat["error"], str)
