from __future__ import annotations

from typing import Any

import pytest

from helexa.errors import InvalidRequest
from helexa.protocol.fields import parse
from helexa.protocol.openai.chat import ChatRequest
from helexa.protocol.openai.tokenize import (
    DetokenizeRequest,
    TokenizeRequest,
    detokenized,
    tokenized,
)

HI = {"role": "user", "content": "Hi"}
TOOL = {"type": "function", "function": {"name": "f"}}


def read(**fields: Any) -> TokenizeRequest:
    return parse(TokenizeRequest, {"model": "m", **fields})


def test_n086_a_prompt() -> None:
    request = read(prompt="once")
    assert request.chat() is None
    assert (request.prompt, request.add_special_tokens) == ("once", True)
    assert not request.return_token_strs


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"tools": [TOOL]},
        {"tools": [TOOL], "tool_choice": "none"},
        {"reasoning_effort": "low"},
        {"chat_template_kwargs": {"a": 1}},
        {"temperature": "ignored by us", "max_tokens": 5},
    ],
    ids=str,
)
@pytest.mark.parametrize("thinking", [False, True])
def test_n086_messages_are_those_of_chat(fields: dict[str, Any], thinking: bool) -> None:
    request = read(messages=[HI], **fields)
    fields.pop("temperature", None)
    call = parse(ChatRequest, {"model": "m", "messages": [HI], **fields}).call(
        include_thinking=thinking
    )
    assert request.chat() == call.messages
    assert request.offered() == call.tools
    assert request.template_kwargs(include_thinking=thinking) == call.template_kwargs
    assert request.add_generation_prompt


def test_n086_a_prompt_may_be_left_without_its_opening() -> None:
    request = read(messages=[HI], add_generation_prompt=False)
    assert request.template_kwargs() == {
        "enable_thinking": False,
        "add_generation_prompt": False,
    }


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({}, 422, None),
        ({"prompt": 5}, 422, "prompt"),
        ({"messages": [5]}, 422, "messages[0]"),
        ({"prompt": "a", "return_token_strs": 1}, 422, "return_token_strs"),
        ({"prompt": "a", "messages": [HI]}, 400, "prompt"),
        ({"messages": []}, 400, "messages"),
    ],
)
def test_refusals(fields: dict[str, Any], status: int, param: str | None) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(**fields).chat()
    assert (caught.value.status, caught.value.param) == (status, param)


def test_answers() -> None:
    assert tokenized([1, 2], 4096) == {"count": 2, "tokens": [1, 2], "max_model_len": 4096}
    assert tokenized([1], 4096, ["a"])["token_strs"] == ["a"]
    assert detokenized("ab") == {"prompt": "ab"}


def test_detokenize() -> None:
    assert parse(DetokenizeRequest, {"model": "m", "tokens": [1, 2]}).tokens == [1, 2]
    with pytest.raises(InvalidRequest) as caught:
        parse(DetokenizeRequest, {"model": "m", "tokens": [-1]})
    assert caught.value.param == "tokens[0]"
