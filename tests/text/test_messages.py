"""What becomes of messages before a template sees them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import pytest

from helexa.errors import InvalidRequest
from helexa.text.messages import content_text, normalise_messages, plain_data
from helexa.text.sandbox import NullContent


def one(**message: Any) -> dict[str, Any]:
    [normal] = normalise_messages([{"role": "user", **message}])
    return normal


def call(arguments: Any) -> dict[str, Any]:
    return {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ('{"city": "Brno"}', {"city": "Brno"}),
        ("{broken", "{broken"),
        ("[1]", "[1]"),
        ({"a": 1}, {"a": 1}),
    ],
    ids=["text", "unparsable", "no object", "object"],
)
def test_e071_call_arguments(arguments: Any, expected: Any) -> None:
    message = {"role": "assistant", "tool_calls": [call(arguments)]}

    [normal] = normalise_messages([message])

    assert normal["tool_calls"][0] == call(expected)
    assert message == {"role": "assistant", "tool_calls": [call(arguments)]}, "the original stays"


def test_e071_system_messages_stay_as_they_are_and_none_is_added() -> None:
    messages = [{"role": role, "content": role} for role in ("system", "user", "system")]

    assert normalise_messages(messages) == messages
    assert [m["role"] for m in normalise_messages([{"role": "developer"}])] == ["system"]


def test_e071_extra_keys_stay_and_null_ones_go() -> None:
    normal = one(content="x", name="Ada", custom={"a": None}, tool_calls=None)

    assert normal == {"role": "user", "content": "x", "name": "Ada", "custom": {"a": None}}


@pytest.mark.parametrize("field", ["reasoning_content", "thinking", "reasoning"])
def test_e071_reasoning_goes_by_one_name(field: str) -> None:
    normal = one(content="x", **{field: "because"})

    assert (normal["reasoning_content"], normal["thinking"]) == ("because", "because")


def test_e071_the_first_reasoning_field_that_is_not_null_wins() -> None:
    normal = one(reasoning_content=None, thinking="b", reasoning="c")

    assert (normal["reasoning_content"], normal["thinking"]) == ("b", "b")


@pytest.mark.parametrize("message", [{}, {"content": None}], ids=["absent", "null"])
def test_missing_content_is_null(message: dict[str, Any]) -> None:
    content = one(**message)["content"]

    assert isinstance(content, NullContent)
    assert content == None  # noqa: E711  # what a template's `== none` asks
    assert not content
    assert str(content) == ""


@pytest.mark.parametrize(
    "messages",
    ["hi", {"role": "user"}, [], ["hi"], [{"content": "x"}], [{"role": 3}], None],
    ids=["text", "object", "empty", "texts", "no role", "role no text", "none"],
)
def test_what_is_no_conversation_is_refused(messages: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        normalise_messages(messages)

    assert caught.value.param == "messages"


def test_only_plain_data_reaches_a_template() -> None:
    class Word(StrEnum):
        HI = "hi"

    class Model:
        def model_dump(self) -> dict[str, Any]:
            return {"image": object()}

    @dataclass
    class Point:
        x: int

    plain = plain_data([Word.HI, Model(), Point(1), (True, None), {"k": 1.5}])

    assert plain == ["hi", {"image": "<object>"}, {"x": 1}, (True, None), {"k": 1.5}]
    assert type(plain[0]) is str


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("a", "a"),
        (None, ""),
        ([{"type": "text", "text": "a"}, {"type": "image"}, {"text": "b"}, "c"], "ab"),
        (3, ""),
    ],
)
def test_text_of_content(content: Any, text: str) -> None:
    assert content_text(content) == text


@pytest.mark.parametrize("content", [5, True, 1.5, [3], ["a", None]], ids=repr)
def test_content_that_is_no_text_is_refused(content: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"messages\[1\] has content") as caught:
        normalise_messages([{"role": "user"}, {"role": "user", "content": content}])
    assert caught.value.param == "messages"


@pytest.mark.parametrize("content", [["a", {"type": "text"}], ("a",), {"t": 21}, [], ""], ids=repr)
def test_content_that_a_template_may_read_stays(content: Any) -> None:
    assert one(content=content)["content"] == content
