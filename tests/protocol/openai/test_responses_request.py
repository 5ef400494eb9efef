from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helexa.errors import HelexaError, InvalidRequest
from helexa.protocol.fields import parse
from helexa.protocol.openai.chat import ChatCall
from helexa.protocol.openai.projection import collect
from helexa.protocol.openai.responses import ResponseRequest, chat_messages
from helexa.refusals import ChainedConversation, InvalidBody
from helexa.text.events import Reasoning, Text
from tests.protocol.builders import call, finish, quick, response


def called(**fields: Any) -> ChatCall:
    return parse(ResponseRequest, {"model": "m", "input": "Hi", **fields}).call()


def call_item(at: int) -> dict[str, Any]:
    return {"type": "function_call", "call_id": f"c{at}", "name": f"f{at}", "arguments": "{}"}


def output_item(at: int, output: Any = "ok") -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": f"c{at}", "output": output}


def test_n087_input() -> None:
    assert called().messages == [{"role": "user", "content": "Hi"}]
    assert called(instructions="Be brief.").messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
    ]
    assert called(instructions="").messages == called().messages
    typed = [{"type": "message", "role": role, "content": role} for role in ("user", "assistant")]
    assert called(input=typed).messages == [
        {"role": role, "content": role} for role in ("user", "assistant")
    ]
    roles = ("system", "assistant", "user")
    bare = [{"role": role, "content": role} for role in roles]
    assert called(input=bare).messages == bare


def test_n087_null_content_and_unknown_items() -> None:
    items = [
        {"role": "assistant", "content": None},
        {"role": "assistant"},
        {"type": "web_search_call", "id": "ws"},
        "loose text",
        5,
        {"type": "function_call", "name": "no id"},
    ]
    assert called(input=items).messages == [{"role": "assistant", "content": ""}] * 2


def test_n087_call_outputs() -> None:
    items = [output_item(1, [{"type": "output_text", "text": "42"}]), output_item(2, "ů")]
    assert chat_messages(items) == [
        {
            "role": "tool",
            "tool_call_id": "c1",
            "content": '[{"type":"output_text","text":"42"}]',
        },
        {"role": "tool", "tool_call_id": "c2", "content": "ů"},
    ]


def image(**more: Any) -> dict[str, Any]:
    return {"type": "input_image", "image_url": "data:image/png;base64,AA", **more}


SHOWN = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}


def said(text: str, kind: str = "input_text") -> dict[str, Any]:
    return {"type": kind, "text": text}


@pytest.mark.parametrize(
    ("parts", "content"),
    [
        ([said("first"), said("second", "output_text")], "first\n\nsecond"),
        ([said("as in chat", "text")], "as in chat"),
        ([said("look"), image()], [{"type": "text", "text": "look"}, SHOWN]),
        (
            [image(detail="high"), said("two"), image(detail="low")],
            [SHOWN, {"type": "text", "text": "two"}, SHOWN],
        ),
        ([said("a"), {"type": "odd", "text": "b"}, 5, image(image_url=None)], "a"),
        ([], ""),
    ],
    ids=["texts", "chat_text", "image", "two_images", "unknown", "none"],
)
def test_n088_parts(parts: list[Any], content: Any) -> None:
    (message,) = called(input=[{"role": "user", "content": parts}]).messages
    assert message == {"role": "user", "content": content}


def test_n089_adjacent_calls() -> None:
    items = [call_item(1), call_item(2), output_item(1), output_item(2), call_item(3)]
    messages = chat_messages(items)
    assert [message["role"] for message in messages] == ["assistant", "tool", "tool", "assistant"]
    assert messages[0] == {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"id": f"c{at}", "type": "function", "function": {"name": f"f{at}", "arguments": "{}"}}
            for at in (1, 2)
        ],
    }
    assert len(messages[3]["tool_calls"]) == 1
    arguments = {**call_item(1), "arguments": {"a": 1}}
    (message,) = chat_messages([arguments])
    assert message["tool_calls"][0]["function"]["arguments"] == '{"a":1}'


def test_an_answer_sent_back_is_one_message() -> None:
    for text in ("", "Let me see."):
        events = [Reasoning("hm"), Text(text), call(0), call(1), finish()]
        output = collect(response(), events)["output"]
        assert [item["type"] for item in output] == ["reasoning", "message", *["function_call"] * 2]
        user = {"role": "user", "content": "Weather?"}
        results = [
            {"type": "function_call_output", "call_id": item["call_id"], "output": "sunny"}
            for item in output[2:]
        ]
        messages = called(input=[user, *output, *results]).messages
        assert [m["role"] for m in messages] == ["user", "assistant", "tool", "tool"]
        assert messages[1]["content"] == text
        assert [c["id"] for c in messages[1]["tool_calls"]] == [i["call_id"] for i in output[2:]]


def test_a_call_after_anybody_elses_message_is_one_of_its_own() -> None:
    messages = chat_messages([{"role": "user", "content": "a"}, call_item(1)])
    assert [m["role"] for m in messages] == ["user", "assistant"]
    assert "tool_calls" not in messages[0]


def test_metadata_is_given_back() -> None:
    for sent, told in (({"a": "b"}, {"a": "b"}), (None, {}), (5, {})):
        request = parse(ResponseRequest, {"model": "m", "input": "", "metadata": sent})
        assert request.echo()["metadata"] == told


def test_n090_reasoning_items() -> None:
    reasoning = {"type": "reasoning", "summary": [], "role": "assistant"}
    messages = chat_messages([reasoning, call_item(1), reasoning, call_item(2)])
    assert [len(message["tool_calls"]) for message in messages] == [2]


def test_n091_tools() -> None:
    flat = {
        "type": "function",
        "name": "f",
        "description": None,
        "parameters": {"type": "object"},
        "strict": True,
    }
    wrapped = {"type": "function", "function": {"name": "g", "strict": True}}
    call = called(tools=[flat, wrapped, {"type": "web_search"}])
    assert call.tools == [
        {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}},
        wrapped,
    ]
    assert called(tools=[{"type": "web_search"}]).tools is None
    assert called().tools is None
    named = called(tools=[flat], tool_choice={"type": "function", "name": "f"})
    assert (named.tool_choice, named.tool_name) == ("named", "f")


def test_n092_null_stream() -> None:
    assert called(stream=None).stream is False
    assert called(stream=True).stream is True


def test_what_else_is_passed_on() -> None:
    call = called(
        max_output_tokens=7,
        temperature=0,
        stop="x",
        parallel_tool_calls=False,
        chat_template_kwargs={"a": 1},
        text={
            "format": {"type": "json_schema", "name": "s", "schema": {}, "strict": True},
            "verbosity": "low",
        },
        store=True,
        include=["x"],
        truncation="auto",
        top_logprobs=99,
        background=False,
    )
    assert call.sampling == {"max_tokens": 7, "temperature": 0, "stop": ("x",)}
    assert not call.parallel_tool_calls
    assert call.template_kwargs == {"a": 1}
    assert call.response_format == {
        "type": "json_schema",
        "json_schema": {"name": "s", "schema": {}, "strict": True},
    }
    assert called(text={"format": {"type": "text"}}).response_format is None
    assert called().sampling == {"max_tokens": 8192}


def test_thinking_is_the_templates_matter() -> None:
    assert called().template_kwargs == {}
    assert called(reasoning={"effort": "none"}).template_kwargs == {
        "reasoning_effort": "none",
        "enable_thinking": False,
    }
    assert called(reasoning={"effort": "high", "summary": "auto"}).template_kwargs == {
        "reasoning_effort": "high",
        "enable_thinking": True,
    }
    assert called(reasoning={"effort": None}).template_kwargs == {}
    assert not called().include_thinking


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"input": None}, 422, "input"),
        ({"input": 5}, 422, "input"),
        ({"input": [{"role": "user", "content": 5}]}, 422, "input"),
        ({"model": None}, 422, "model"),
        ({"instructions": 5}, 422, "instructions"),
        ({"max_output_tokens": -1}, 422, "max_output_tokens"),
        ({"seed": -1}, 422, "seed"),
        ({"stream": "no"}, 422, "stream"),
        ({"tools": [5]}, 422, "tools[0]"),
        ({"tools": [{"type": "function", "name": 5}]}, 422, "tools[0].function.name"),
        ({"text": 5}, 422, "text"),
        ({"text": {"format": {"type": "json_schema"}}}, 422, "text.format"),
        ({"reasoning": {"effort": 5}}, 422, "reasoning.effort"),
        ({"input": []}, 400, "input"),
        ({"input": ["dropped"]}, 400, "input"),
        ({"stop": [""]}, 400, "stop"),
        ({"tool_choice": "required"}, 400, "tool_choice"),
        ({"text": {"format": {"type": "xml"}}}, 400, "text.format"),
        ({"background": True}, 400, "background"),
        ({"conversation": "c"}, 400, "conversation"),
        ({"prompt": {"id": "p"}}, 400, "prompt"),
    ],
)
def test_refusals_name_the_fields_of_this_surface(
    fields: dict[str, Any], status: int, param: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        called(**fields)
    assert (caught.value.status, caught.value.param) == (status, param)
    assert param.partition("[")[0].partition(".")[0] in str(caught.value)


def test_shapes_are_refused_before_a_call_is_asked_for() -> None:
    for fields in ({"text": {"format": {}}}, {"reasoning": {"effort": 5}}, {"tools": [5]}):
        with pytest.raises(InvalidBody):
            parse(ResponseRequest, {"model": "m", "input": "", **fields})


def test_n057_chained() -> None:
    request = parse(ResponseRequest, {"model": "m", "input": "", "previous_response_id": "r"})
    with pytest.raises(ChainedConversation):
        request.call()


item = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.fixed_dictionaries(
            {},
            optional={
                "type": st.sampled_from(
                    ["message", "function_call", "function_call_output", "reasoning", "input_text"]
                ),
                "role": st.sampled_from(["user", "assistant"]) | inner,
                **dict.fromkeys(("content", "call_id", "name", "arguments", "output"), inner),
                **dict.fromkeys(("text", "image_url"), inner),
            },
        )
    ),
    max_leaves=12,
)


@quick
@given(st.lists(item, max_size=6))
def test_no_item_breaks_a_request(items: list[Any]) -> None:
    try:
        call = called(input=items, instructions="x")
    except HelexaError as error:
        assert error.code == "invalid_request_body"
    else:
        assert call.messages[0]["role"] == "system"
