from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helexa.engine.params import SamplingParams
from helexa.errors import InvalidRequest
from helexa.protocol.fields import parse
from helexa.protocol.openai.chat import ChatCall, ChatRequest, wants_thinking
from helexa.refusals import InvalidBody
from tests.protocol.builders import quick

HI = {"role": "user", "content": "Hi"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}}


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [HI], **fields}


def called(include_thinking: bool = False, **fields: Any) -> ChatCall:
    return parse(ChatRequest, body(**fields)).call(include_thinking=include_thinking)


def refused(**fields: Any) -> tuple[int, str | None, str | None]:
    with pytest.raises(InvalidRequest) as caught:
        called(**fields)
    return caught.value.status, caught.value.code, caught.value.param


def test_the_plainest_request() -> None:
    call = called()
    assert call == ChatCall(
        model="m",
        messages=[HI],
        sampling={"max_tokens": 8192},
        template_kwargs={"enable_thinking": False},
    )
    assert not call.logprobs


WRONG_SHAPES: list[tuple[dict[str, Any], str]] = [
    ({"model": None}, "model"),
    ({"model": 5}, "model"),
    ({"messages": None}, "messages"),
    ({"messages": "x"}, "messages"),
    ({"messages": ["x"]}, "messages[0]"),
    ({"messages": [HI, {"content": "x"}]}, "messages[1].role"),
    ({"messages": [{"role": 5}]}, "messages[0].role"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": {}}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "tool_calls": [5]}]}, "messages[0].tool_calls[0]"),
    ({"seed": -1}, "seed"),
    ({"seed": "1"}, "seed"),
    ({"seed": True}, "seed"),
    ({"top_k": 1.5}, "top_k"),
    ({"top_k": -2}, "top_k"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"max_completion_tokens": "9"}, "max_completion_tokens"),
    ({"n": -1}, "n"),
    ({"repeat_last_n": -1}, "repeat_last_n"),
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"top_p": []}, "top_p"),
    ({"stop": 5}, "stop"),
    ({"stop": ["a", 5]}, "stop"),
    ({"stop_token_ids": [1, -1]}, "stop_token_ids[1]"),
    ({"ignore_eos": 1}, "ignore_eos"),
    ({"speculative": "yes"}, "speculative"),
    ({"logit_bias": [1]}, "logit_bias"),
    ({"logit_bias": {"1": "2"}}, "logit_bias"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": True}, "stream_options"),
    ({"logprobs": 3}, "logprobs"),
    ({"top_logprobs": -1}, "top_logprobs"),
    ({"response_format": "json"}, "response_format"),
    ({"response_format": {}}, "response_format"),
    ({"response_format": {"type": "json_schema"}}, "response_format"),
    ({"tools": {}}, "tools"),
    ({"tools": [{"type": "function"}]}, "tools[0]"),
    ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
    ({"tools": [{"function": {"name": "f", "parameters": 5}}]}, "tools[0].function.parameters"),
    ({"tool_choice": 5}, "tool_choice"),
    ({"tool_choice": {}}, "tool_choice"),
    ({"tool_choice": {"type": "function"}}, "tool_choice"),
    ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
    ({"reasoning_effort": 1}, "reasoning_effort"),
    ({"modalities": "text"}, "modalities"),
]


@pytest.mark.parametrize(("fields", "param"), WRONG_SHAPES, ids=lambda case: str(case)[:60])
def test_n019_n061_wrong_types(fields: dict[str, Any], param: str) -> None:
    assert refused(**fields) == (422, "invalid_request_body", param)


@pytest.mark.parametrize("value", [[], "x", 5, None])
def test_a_body_that_is_no_object(value: Any) -> None:
    with pytest.raises(InvalidBody, match="must be a JSON object") as caught:
        parse(ChatRequest, value)
    assert caught.value.param is None


def test_messages_do_not_tell_what_was_sent() -> None:
    secret = {"role": "user", "content": [{"type": "text", "text": {"secret": "sesame"}}]}
    for fields in ({"messages": [secret]}, {"stop": {"sesame": 1}}, {"temperature": "sesame"}):
        with pytest.raises(InvalidBody) as caught:
            called(**fields)
        assert "sesame" not in str(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None or caught.value.__suppress_context__


BAD_VALUES: list[tuple[dict[str, Any], str]] = [
    ({"messages": []}, "messages"),
    ({"top_logprobs": 21}, "top_logprobs"),
    ({"stop": ["x"] * 17}, "stop"),
    ({"stop": ""}, "stop"),
    ({"stop": ["x" * 257]}, "stop"),
    ({"seed": 2**64}, "seed"),
    ({"temperature": float("inf")}, "temperature"),
    ({"min_p": 1.5}, "min_p"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"presence_penalty": 2.5}, "presence_penalty"),
    ({"frequency_penalty": -3}, "frequency_penalty"),
    ({"logit_bias": {"x": 1}}, "logit_bias"),
    ({"logit_bias": {"-1": 1}}, "logit_bias"),
    ({"logit_bias": {"1": 101}}, "logit_bias"),
    ({"n": 0}, "n"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": "sometimes"}, "tool_choice"),
    ({"tools": [TOOL], "tool_choice": {"type": "odd"}}, "tool_choice"),
    (
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
        "tool_choice",
    ),
    ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
]


@pytest.mark.parametrize(("fields", "param"), BAD_VALUES, ids=lambda case: str(case)[:60])
def test_n061_bad_values(fields: dict[str, Any], param: str) -> None:
    assert refused(**fields) == (400, "invalid_value", param)


AUDIO = {"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}
UNSUPPORTED: list[tuple[dict[str, Any], str]] = [
    ({"n": 2}, "n"),
    ({"best_of": 2}, "best_of"),
    ({"functions": []}, "functions"),
    ({"function_call": "auto"}, "function_call"),
    ({"audio": {}}, "audio"),
    ({"modalities": ["text", "audio"]}, "modalities"),
    ({"web_search_options": {}}, "web_search_options"),
    ({"messages": [HI, AUDIO]}, "messages[1].content[0]"),
    ({"messages": [{"role": "user", "content": [{"type": "file"}]}]}, "messages[0].content[0]"),
    ({"messages": [{"role": "u", "content": [{"type": "video_url"}]}]}, "messages[0].content[0]"),
    ({"messages": [{"role": "u", "content": [{"type": "document"}]}]}, "messages[0].content[0]"),
    ({"messages": [{"role": "u", "content": [{"type": "image"}]}]}, "messages[0].content[0]"),
    ({"response_format": {"type": "xml"}}, "response_format"),
    ({"tools": [TOOL, {"type": "web_search"}]}, "tools[1].type"),
]


@pytest.mark.parametrize(("fields", "param"), UNSUPPORTED, ids=lambda case: str(case)[:60])
def test_n061_unsupported(fields: dict[str, Any], param: str) -> None:
    assert refused(**fields) == (400, "unsupported_parameter", param)


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 1},
        {"n": 1.0},
        {"top_k": -1},
        {"unknown_key": object},
        {"modalities": ["text"]},
        {"user": 5, "metadata": [], "store": "x", "service_tier": 1, "prediction": {}},
        {"stream_options": {"include_usage": False}},
        {"chat_template_kwargs": "no object"},
        dict.fromkeys(sorted(set(ChatRequest.model_fields) - {"model", "messages"})),
        {"stop": []},
        {"tools": []},
        {"top_logprobs": 3},
    ],
    ids=lambda fields: str(fields)[:60],
)
def test_n061_accepted(fields: dict[str, Any]) -> None:
    called(**fields)


def test_n062_max_tokens() -> None:
    both = called(max_completion_tokens=256, max_tokens=99)
    assert both.sampling["max_tokens"] == 256
    assert called(max_tokens=99).sampling["max_tokens"] == 99
    assert called().sampling["max_tokens"] == 8192
    assert called(max_tokens=0).sampling["max_tokens"] == 0


def test_n064_request_types() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    sent = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "odd", "x": None}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "4", "extra": {"kept": None}},
        {"role": "assistant"},
        {"role": "assistant", "content": None},
    ]
    assert called(messages=sent).messages == sent


def test_arguments_may_be_an_object() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
    sent = [{"role": "assistant", "content": "", "tool_calls": [call]}]
    assert called(messages=sent).messages == sent


@pytest.mark.parametrize(
    ("header", "fields", "expected"),
    [
        (False, {}, {"enable_thinking": False}),
        (True, {}, {"enable_thinking": True}),
        (
            False,
            {"chat_template_kwargs": {"enable_thinking": True}},
            {"enable_thinking": True},
        ),
        (
            False,
            {"chat_template_kwargs": {"some_other": 42}},
            {"some_other": 42, "enable_thinking": False},
        ),
        (
            True,
            {"reasoning_effort": "none"},
            {"reasoning_effort": "none", "enable_thinking": False},
        ),
        (
            False,
            {"reasoning_effort": "low"},
            {"reasoning_effort": "low", "enable_thinking": True},
        ),
        (
            True,
            {"reasoning_effort": "low", "chat_template_kwargs": {"enable_thinking": False}},
            {"reasoning_effort": "low", "enable_thinking": False},
        ),
        (
            False,
            {"reasoning_effort": "low", "chat_template_kwargs": {"reasoning_effort": "high"}},
            {"reasoning_effort": "high", "enable_thinking": True},
        ),
        (True, {"chat_template_kwargs": {"enable_thinking": None}}, {"enable_thinking": True}),
        (True, {"chat_template_kwargs": [1]}, {"enable_thinking": True}),
    ],
)
def test_n065_thinking_default(
    header: bool, fields: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert called(header, **fields).template_kwargs == expected


def test_the_header_is_read_leniently() -> None:
    assert all(wants_thinking(value) for value in ("1", "true", " YES "))
    assert not any(wants_thinking(value) for value in (None, "", "0", "false", "on"))


def test_tools_and_choices() -> None:
    assert called(tools=[TOOL]).tools == [TOOL]
    nothing = called(tools=[TOOL], tool_choice="none")
    assert (nothing.tools, nothing.tool_choice) == (None, "none")
    assert called(tools=[TOOL], tool_choice="required").tool_choice == "required"
    named = called(
        tools=[TOOL], tool_choice={"type": "function", "function": {"name": "f"}}
    )  # fmt: skip
    assert (named.tool_choice, named.tool_name) == ("named", "f")
    assert called(tool_choice="auto").tools is None
    assert called(parallel_tool_calls=False).parallel_tool_calls is False


def test_formats() -> None:
    assert called(response_format={"type": "text"}).response_format is None
    assert called(response_format=SCHEMA).response_format == SCHEMA
    assert called(response_format={"type": "json_object"}).response_format == {
        "type": "json_object"
    }


def test_logprobs_are_asked_for_by_both_fields() -> None:
    assert called(logprobs=True).sampling["logprobs"] == 0
    assert called(logprobs=True, top_logprobs=20).sampling["logprobs"] == 20
    assert "logprobs" not in called(logprobs=False, top_logprobs=3).sampling


def test_n092_null_stream() -> None:
    assert called(stream=None).stream is False
    assert called(stream=True).stream is True


numbers = st.integers(-3, 300) | st.floats(-300, 300)
sampling_fields = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("temperature", "top_p", "min_p", "repetition_penalty"), numbers),
        **dict.fromkeys(("presence_penalty", "frequency_penalty"), numbers),
        "top_k": numbers,
        "seed": st.integers(0, 2**65),
        "repeat_last_n": numbers,
        "max_tokens": numbers,
        "stop": st.text(max_size=300) | st.lists(st.text(max_size=5), max_size=20),
        "stop_token_ids": st.lists(st.integers(0, 9)),
        "ignore_eos": st.booleans(),
        "speculative": st.booleans(),
        "logit_bias": st.dictionaries(st.text("0123456789٣x", max_size=20), numbers, max_size=3),
        "logprobs": st.booleans(),
        "top_logprobs": st.integers(0, 25),
    },
)


@quick
@given(sampling_fields)
def test_what_passes_here_passes_the_engine(fields: dict[str, Any]) -> None:
    """The two checks are written twice, because a gateway must not know the engine."""
    try:
        call = called(**fields)
    except InvalidRequest as error:
        assert error.status in (400, 422)
        assert error.param
    else:
        SamplingParams(**call.sampling)
