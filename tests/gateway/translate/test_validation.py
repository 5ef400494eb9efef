"""Bodies that are no request of the messages API: where, and what is wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helexa.gateway.refusals import InvalidAnthropicBody
from helexa.gateway.translate.request import translate_count, translate_request
from helexa.gateway.translate.validation import check_body

GOOD: dict[str, Any] = {
    "model": "m",
    "max_tokens": 1,
    "messages": [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": [{"type": "text", "text": "Ho"}]},
    ],
}


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in GOOD.items() if name != key}


def saying(*messages: Any) -> dict[str, Any]:
    return {**GOOD, "messages": list(messages)}


WRONG: dict[str, tuple[Any, str]] = {
    "not an object": ([], "body: must be a JSON object"),
    "null": (None, "body: must be a JSON object"),
    "strange object": ({"not_a_valid": "request"}, "model: is required"),
    "no model": (without("model"), "model: is required"),
    "empty model": ({**GOOD, "model": ""}, "model: must be a non-empty string"),
    "model": ({**GOOD, "model": 5}, "model: must be a non-empty string"),
    "no messages": (without("messages"), "messages: is required"),
    "messages": ({**GOOD, "messages": {}}, "messages: must be a list"),
    "message": (saying("Hi"), "messages[0]: must be an object"),
    "role": (saying({"content": "Hi"}), "messages[0].role: must be a string"),
    "content": (
        saying(GOOD["messages"][0], {"role": "user", "content": 5}),
        "messages[1].content: must be a string or a list of blocks",
    ),
    "no content": (
        saying({"role": "user"}),
        "messages[0].content: must be a string or a list of blocks",
    ),
    "block": (
        saying({"role": "user", "content": ["Hi"]}),
        "messages[0].content[0]: must be an object",
    ),
    "block type": (
        saying({"role": "user", "content": [{"type": "text", "text": "a"}, {"type": 5}]}),
        "messages[0].content[1].type: must be a string",
    ),
    "no max_tokens": (without("max_tokens"), "max_tokens: is required"),
    "system": ({**GOOD, "system": {}}, "system: must be a string or a list of blocks"),
    "temperature": ({**GOOD, "temperature": "hot"}, "temperature: must be a number"),
    "infinite": ({**GOOD, "temperature": 1e999}, "temperature: must be a number"),
    "top_p": ({**GOOD, "top_p": True}, "top_p: must be a number"),
    "top_k": ({**GOOD, "top_k": -1}, "top_k: must be an integer of at least 0"),
    "top_k 1.5": ({**GOOD, "top_k": 1.5}, "top_k: must be an integer of at least 0"),
    "stream": ({**GOOD, "stream": "yes"}, "stream: must be true or false"),
    "stops": ({**GOOD, "stop_sequences": "END"}, "stop_sequences: must be a list of strings"),
    "a stop": ({**GOOD, "stop_sequences": ["a", 5]}, "stop_sequences: must be a list of strings"),
    **{
        f"max_tokens {value!r}": (
            {**GOOD, "max_tokens": value},
            "max_tokens: must be an integer of at least 1",
        )
        for value in (0, -1, 1.0, True, "5")
    },
}


@pytest.mark.parametrize(("body", "told"), WRONG.values(), ids=WRONG)
def test_g117_what_is_wrong_is_told(body: Any, told: str) -> None:
    with pytest.raises(InvalidAnthropicBody) as caught:
        translate_request(body)
    assert str(caught.value) == f"invalid Anthropic request body: {told}"
    assert (caught.value.status, caught.value.code) == (400, "invalid_anthropic_body")


def test_what_is_right_is_taken() -> None:
    options = {
        "system": [{"type": "text", "text": "S"}],
        "temperature": 1,
        "top_p": 0.5,
        "top_k": 0,
        "stream": False,
        "stop_sequences": [],
    }
    for body in (GOOD, {**GOOD, **options}, {**GOOD, **dict.fromkeys(options)}, saying()):
        assert check_body(body) is body
    assert check_body(without("max_tokens"), counting=True) == without("max_tokens")
    with pytest.raises(InvalidAnthropicBody, match="max_tokens: must be an integer"):
        check_body({**GOOD, "max_tokens": 0}, counting=True)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
KEYS = st.sampled_from(
    "type text role content source data url input id name tool_use_id thinking function".split()
)
KINDS = st.sampled_from(
    "text image tool_use tool_result thinking redacted_thinking document base64 url tool".split()
)
anything = st.recursive(
    scalars | KINDS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)
blocks = st.builds(
    lambda kind, rest: {**rest, "type": kind}, KINDS, st.dictionaries(KEYS, anything)
)
OPTIONAL = (
    *("system", "tools", "tool_choice", "thinking", "stream", "stop_sequences", "stop"),
    *("temperature", "top_k", "chat_template_kwargs", "stream_options", "metadata"),
)
almost = st.fixed_dictionaries(
    {
        "model": st.just("m") | anything,
        "max_tokens": st.just(5) | anything,
        "messages": anything
        | st.lists(
            st.fixed_dictionaries(
                {
                    "role": st.sampled_from(["user", "assistant", "system"]) | anything,
                    "content": st.text(max_size=5) | st.lists(blocks, max_size=4) | anything,
                }
            ),
            max_size=4,
        ),
    },
    optional=dict.fromkeys(OPTIONAL, anything),
)


@settings(max_examples=150, deadline=None)
@given(st.one_of(anything, almost, almost))
def test_any_json_is_translated_or_refused(body: Any) -> None:
    for translate in (translate_request, translate_count):
        try:
            sent = translate(body).encode("listed")
        except InvalidAnthropicBody as error:
            assert str(error).startswith("invalid Anthropic request body: ")
        else:
            chat = json.loads(sent)
            assert chat["model"] == "listed"
            assert isinstance(chat["messages"], list)
