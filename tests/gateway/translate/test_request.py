"""Requests: what each part of a messages body becomes in a chat body."""

from __future__ import annotations

import json
from typing import Any

import pytest

from helexa.gateway.refusals import InvalidAnthropicBody
from helexa.gateway.translate.request import Translated, translate_count, translate_request

SYSTEM = "You must reply with exactly the word PONG and nothing else."
READ = {
    "name": "Read",
    "description": "Reads a file.",
    "input_schema": {
        "type": "object",
        "properties": {"path": {"type": "string"}},
        "required": ["path"],
    },
}
PNG = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
PNG_PART = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}


def request(*messages: Any, **more: Any) -> dict[str, Any]:
    """A body; a message is a user's content, or a whole message."""
    told = [
        one if isinstance(one, dict) and "role" in one else {"role": "user", "content": one}
        for one in messages or ["Hi"]
    ]
    return {"model": "test-model", "max_tokens": 100, "messages": told, **more}


def chat(*messages: Any, **more: Any) -> dict[str, Any]:
    return translate_request(request(*messages, **more)).body


def messages(*given: Any, **more: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = chat(*given, **more)["messages"]
    return found


def assistant(*blocks: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


def injected(content: Any) -> dict[str, Any]:
    return {"role": "system", "content": content}


def block(text: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": text, **more}


def result(content: Any = None, of: str = "toolu_42", **more: Any) -> dict[str, Any]:
    told = {} if content is None else {"content": content}
    return {"type": "tool_result", "tool_use_id": of, **told, **more}


def test_the_whole_of_a_plain_request() -> None:
    translated = translate_request(request())
    assert translated == Translated(request(), "test-model", thinking=False, stream=False)
    assert json.loads(translated.encode("listed-model")) == {**request(), "model": "listed-model"}
    assert list(json.loads(translated.encode("m"))) == ["model", "max_tokens", "messages"]


@pytest.mark.parametrize(
    "system",
    [SYSTEM, [block(SYSTEM, cache_control={"type": "ephemeral"})]],
    ids=["string", "blocks"],
)
def test_g116_system(system: Any) -> None:
    found = messages([block("What is this?")], system=system)
    assert found == [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": "What is this?"},
    ]


def test_g119_tools() -> None:
    use = {"type": "tool_use", "id": "toolu_42", "name": "Read", "input": {"path": "/etc/hosts"}}
    found = chat(
        "Read /etc/hosts.",
        assistant(block("Reading it."), use),
        [result("127.0.0.1 localhost")],
        tools=[READ],
        tool_choice={"type": "auto"},
    )
    (tool,) = found["tools"]
    assert tool == {
        "type": "function",
        "function": {
            "name": "Read",
            "description": "Reads a file.",
            "parameters": READ["input_schema"],
        },
    }
    assert found["tool_choice"] == "auto"
    asked, called, answered = found["messages"]
    assert asked == {"role": "user", "content": "Read /etc/hosts."}
    assert called == {
        "role": "assistant",
        "content": "Reading it.",
        "tool_calls": [
            {
                "id": "toolu_42",
                "type": "function",
                "function": {"name": "Read", "arguments": {"path": "/etc/hosts"}},
            }
        ],
    }
    assert answered == {
        "role": "tool",
        "content": "127.0.0.1 localhost",
        "tool_call_id": "toolu_42",
    }


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "Read"}, {"type": "function", "function": {"name": "Read"}}),
        ({"type": "tool"}, {"type": "tool"}),
        ({"type": ["auto"]}, {"type": ["auto"]}),
        ("auto", "auto"),
    ],
    ids=["auto", "any", "none", "tool", "tool without a name", "no type", "OpenAI's"],
)
def test_g120_tool_choice(choice: Any, expected: Any) -> None:
    found = chat(tools=[READ], tool_choice=choice)
    assert found["tool_choice"] == expected
    assert "parallel_tool_calls" not in found


def test_g120_one_call_at_a_time() -> None:
    choice = {"type": "any", "disable_parallel_tool_use": True}
    found = chat(tools=[READ], tool_choice=choice, parallel_tool_calls=True)
    assert (found["tool_choice"], found["parallel_tool_calls"]) == ("required", False)
    kept = chat(tools=[READ], tool_choice={**choice, "disable_parallel_tool_use": False})
    assert "parallel_tool_calls" not in kept


def test_g121_tool_result() -> None:
    lines = result([block("line1"), block("line2")])
    tool = {"role": "tool", "content": "line1line2", "tool_call_id": "toolu_42"}
    assert messages([lines]) == [tool]
    assert messages([lines, block("now what?")]) == [tool, {"role": "user", "content": "now what?"}]
    pictured = result([block("line1line2"), {"type": "image", "source": PNG}])
    assert messages([pictured]) == [tool, {"role": "user", "content": [PNG_PART]}]
    assert messages([lines, block("")]) == [tool]
    assert messages([block("before"), pictured]) == [
        tool,
        {"role": "user", "content": [block("before"), PNG_PART]},
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, ""),
        ([], ""),
        ({"a": 1}, '{"a":1}'),
        (False, "false"),
        ([block("a"), {"type": "document", "x": "č"}, 5], 'a{"type":"document","x":"č"}5'),
        ([{"type": "text", "text": 1}], '{"type":"text","text":1}'),
        ([{"type": "image", "source": {"type": "file"}}], ""),
    ],
    ids=["absent", "empty", "object", "false", "mixed", "broken text", "unknown image"],
)
def test_other_tool_results(content: Any, expected: str) -> None:
    assert messages([result(content, is_error=True)]) == [
        {"role": "tool", "content": expected, "tool_call_id": "toolu_42"}
    ]


def test_defaults_of_calls_and_results() -> None:
    called, answered = messages(assistant({"type": "tool_use"}), [{"type": "tool_result"}])
    (call,) = called["tool_calls"]
    assert call == {
        "id": "toolu_unknown",
        "type": "function",
        "function": {"name": "", "arguments": {}},
    }
    assert answered["tool_call_id"] == "toolu_unknown"


def test_g122_system_merge() -> None:
    assert messages(system=[block("You are helpful.")])[0]["content"] == "You are helpful."
    found = messages("one", injected("Injected."), "two", system="On top.")
    assert [one["role"] for one in found] == ["system", "user", "user"]
    assert found[0]["content"] == "On top.\n\nInjected."


@pytest.mark.parametrize(
    ("system", "said_later", "expected"),
    [
        ([block("a"), block("b")], None, "a\nb"),
        ([{"type": "x"}, block("a")], None, "a"),
        ([{"type": "x"}], None, '[{"type":"x"}]'),
        (None, [block("a"), {"type": "x"}, block("b")], 'a\n{"type":"x"}\nb'),
        (None, [{"type": "x"}], '{"type":"x"}'),
        ([], [block("a")], "a"),
        ("", None, ""),
    ],
    ids=["lines", "others left out", "others alone", "in place", "alone", "none", "empty"],
)
def test_system_blocks(system: Any, said_later: Any, expected: str) -> None:
    later = [] if said_later is None else [injected(said_later)]
    found = messages("Hi", *later, system=system)
    assert found == [{"role": "system", "content": expected}, {"role": "user", "content": "Hi"}]


def test_no_system_message_where_nothing_is_said() -> None:
    for found in (messages(), messages(system=None), messages(system=[]), messages(injected([]))):
        assert [one for one in found if one["role"] == "system"] == []


def test_g123_tools_of_other_kinds() -> None:
    function = {"type": "function", "function": {"name": "f", "strict": True}}
    search = {"type": "web_search_20250305", "name": "web_search"}
    assert chat(tools=[function, search])["tools"] == [function]
    assert "tools" not in chat(tools=[search])
    assert chat(tools=[])["tools"] == []
    for kind in ("web_fetch_20250910", "code_execution_20250825"):
        assert "tools" not in chat(tools=[{"type": kind, "name": "x"}])
    custom = {"type": "custom", "name": "x", "cache_control": {"type": "ephemeral"}}
    assert chat(tools=[custom])["tools"] == [
        {"type": "function", "function": {"name": "x", "parameters": {"type": "object"}}}
    ]
    assert chat(tools="x")["tools"] == "x"
    assert chat(tools=[5])["tools"] == [5]


@pytest.mark.parametrize(
    ("source", "url"),
    [
        (PNG, "data:image/png;base64,iVBORw0KGgo="),
        ({**PNG, "media_type": "image/webp"}, "data:image/webp;base64,iVBORw0KGgo="),
        ({"type": "base64", "data": "QQ=="}, "data:image/png;base64,QQ=="),
        ({"type": "url", "url": "https://x.test/a.png"}, "https://x.test/a.png"),
    ],
    ids=["base64", "type", "no type", "url"],
)
def test_g123_images(source: Any, url: str) -> None:
    (found,) = messages([block("See:"), {"type": "image", "source": source}])
    part = {"type": "image_url", "image_url": {"url": url}}
    assert found["content"] == [block("See:"), part]


@pytest.mark.parametrize(
    "source",
    [None, "x", {}, {"type": "file", "file_id": "f"}, {"type": "base64"}, {"type": "url"}],
    ids=["absent", "text", "empty", "file", "no data", "no url"],
)
def test_an_image_that_cannot_be_said_is_dropped(source: Any) -> None:
    image = {"type": "image", "source": source}
    assert messages([block("See:"), image]) == [{"role": "user", "content": "See:"}]
    assert messages("Hi", [image]) == [{"role": "user", "content": "Hi"}]


def test_g123_thinking() -> None:
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
    hidden = {"type": "redacted_thinking", "data": "x"}
    (found,) = messages(assistant(thought, hidden, block("Yes.")))
    assert found == {"role": "assistant", "content": "Yes.", "reasoning_content": "Hm."}
    (alone,) = messages(assistant(thought, {"type": "thinking"}))
    assert alone == {"role": "assistant", "content": "", "reasoning_content": "Hm."}
    assert messages(assistant(hidden)) == []
    again = {**thought, "thinking": "And."}
    assert messages(assistant(thought, again))[0]["reasoning_content"] == "Hm.And."
    assert messages([thought, block("Yes.")]) == [{"role": "user", "content": "Yes."}]


def test_contents_by_what_is_in_them() -> None:
    document = {"type": "document", "source": {"type": "text"}, "title": "t"}
    use = {"type": "tool_use", "id": "a", "name": "f", "input": {}}
    assert messages([block("a"), block("b", citations=[])])[0]["content"] == "ab"
    assert messages([block("a"), document])[0]["content"] == [block("a"), document]
    assert messages([block("")]) == [{"role": "user", "content": ""}]
    assert messages([]) == []
    (found,) = messages(assistant(use))
    assert (found["content"], len(found["tool_calls"])) == ("", 1)
    (found,) = messages(assistant(block("a"), document, use))
    assert (found["content"], len(found["tool_calls"])) == ([block("a"), document], 1)
    (found,) = messages([{"type": "text"}])
    assert found["content"] == [{"type": "text"}]


def test_g124_keys() -> None:
    translated = translate_request(
        request(
            stop_sequences=["END"],
            top_k=5,
            seed=7,
            metadata={"user_id": "u"},
            service_tier="auto",
            container="c",
            context_management={},
            mcp_servers=[],
            cache_control={"type": "ephemeral"},
            temperature=0.5,
            top_p=1,
            thinking={"type": "enabled", "budget_tokens": 1024},
        )
    )
    assert translated.thinking
    assert translated.body == {
        **request(),
        "stop": ["END"],
        "top_k": 5,
        "seed": 7,
        "temperature": 0.5,
        "top_p": 1,
        "chat_template_kwargs": {"enable_thinking": True},
    }


@pytest.mark.parametrize(
    ("asked", "own", "expected"),
    [
        ({"type": "adaptive"}, None, {"enable_thinking": True}),
        ({"type": "disabled"}, None, {"enable_thinking": False}),
        ({"type": "enabled"}, {"a": 1}, {"a": 1, "enable_thinking": True}),
        ({"type": "enabled"}, {"enable_thinking": False}, {"enable_thinking": False}),
        ({"type": "disabled"}, {"enable_thinking": True}, {"enable_thinking": True}),
        ({"type": "enabled"}, {"enable_thinking": None}, {"enable_thinking": True}),
        ({"type": "someday"}, {"a": 1}, {"a": 1}),
        ({"type": "enabled"}, "x", "x"),
        (None, {"enable_thinking": True}, {"enable_thinking": True}),
        ("enabled", None, None),
    ],
)
def test_thinking_is_said_to_the_template(asked: Any, own: Any, expected: Any) -> None:
    given = {} if own is None else {"chat_template_kwargs": own}
    translated = translate_request(request(thinking=asked, **given))
    assert translated.body.get("chat_template_kwargs") == expected
    shown = isinstance(expected, dict) and expected.get("enable_thinking") is True
    assert translated.thinking is shown
    assert "thinking" not in translated.body


def test_a_stream_tells_its_usage() -> None:
    translated = translate_request(request(stream=True))
    assert translated.stream
    assert translated.body["stream_options"] == {"include_usage": True}
    own = chat(stream=True, stream_options={"include_usage": False, "x": 1})
    assert own["stream_options"] == {"include_usage": True, "x": 1}
    assert "stream_options" not in chat(stream=False)


def test_anthropics_word_for_stops_counts() -> None:
    for more in ({"stop": "a", "stop_sequences": ["b"]}, {"stop_sequences": ["b"], "stop": "a"}):
        assert chat(**more)["stop"] == ["b"]
    assert chat(stop="a", stop_sequences=None)["stop"] == "a"


def test_g138_a_count_needs_no_length() -> None:
    body = request(system="S", tools=[READ])
    del body["max_tokens"]
    with pytest.raises(InvalidAnthropicBody):
        translate_request(body)
    translated = translate_count(body)
    assert translated.body["add_generation_prompt"] is True
    assert translated.body["messages"][0] == {"role": "system", "content": "S"}
    assert translated.body["tools"][0]["function"]["name"] == "Read"


def test_the_request_is_left_as_it_was() -> None:
    body = request(
        [block("a"), {"type": "image", "source": dict(PNG)}],
        assistant({"type": "tool_use", "id": "a", "name": "f", "input": {"x": [1]}}),
        [result([block("b")])],
        system=[block("S")],
        stream=True,
        stream_options={},
        thinking={"type": "enabled"},
        chat_template_kwargs={"a": 1},
        tools=[dict(READ)],
    )
    before = json.dumps(body)
    translate_request(body)
    assert json.dumps(body) == before


def test_a_number_that_json_cannot_hold_is_the_clients_fault() -> None:
    with pytest.raises(InvalidAnthropicBody, match="body: has a number that is too large"):
        translate_request(request(seed=float("inf"))).encode("m")
    with pytest.raises(InvalidAnthropicBody, match="messages: have a number that is too large"):
        translate_request(request([result({"x": float("inf")})]))
