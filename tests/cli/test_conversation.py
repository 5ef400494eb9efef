"""What typed lines mean and what a conversation remembers."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helexa.cli.conversation import (
    COMMANDS,
    Command,
    Conversation,
    InputLines,
    Say,
    Wrong,
    parse,
    parse_setting,
)
from helexa.errors import InvalidRequest


@pytest.mark.parametrize(
    ("typed", "meaning"),
    [
        ("hello", Say("hello")),
        ("  hello  ", Say("hello")),
        ("", None),
        ("   ", None),
        ("/help", Command("help")),
        ("/?", Command("help")),
        ("/HELP", Command("help")),
        ("/quit", Command("exit")),
        ("/system You are terse.", Command("system", "You are terse.")),
        ("/system", Command("system")),
        ("/set temperature 0.2", Command("set", "temperature 0.2")),
        ("/save a b.json", Command("save", "a b.json")),
        ("/usr/bin is a folder", Say("/usr/bin is a folder")),
        ("/ 2 3", Say("/ 2 3")),
        ("//reset", Say("/reset")),
        ("/system\nline one\nline two", Command("system", "line one\nline two")),
    ],
)
def test_a_line_means(typed: str, meaning: object) -> None:
    assert parse(typed) == meaning


def test_an_unknown_command_names_the_near_ones() -> None:
    wrong = parse("/rest")
    assert isinstance(wrong, Wrong)
    assert "/reset" in wrong.reason


@pytest.mark.parametrize("name", [name for name, command in COMMANDS.items() if command.needs])
def test_a_command_without_its_argument_shows_how_it_is_written(name: str) -> None:
    wrong = parse(f"/{name}")
    assert isinstance(wrong, Wrong)
    assert COMMANDS[name].usage in wrong.reason


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (["one"], "one"),
        (["one\\", "two"], "one\ntwo"),
        (["one\\", "two\\", "three"], "one\ntwo\nthree"),
        (['"""', "one", "", "two", '"""'], "one\n\ntwo"),
        (['"""one', 'two"""'], "one\ntwo"),
        (['"""one"""'], "one"),
        (['"""', "/reset", '"""'], "//reset"),
        (['"""', "ends in \\", '"""'], "ends in \\"),
        (['a """ b'], 'a """ b'),
    ],
    ids=["line", "backslash", "two", "fence", "tight", "closed", "no command", "raw", "inside"],
)
def test_lines_join(lines: list[str], text: str) -> None:
    joined = InputLines()
    *first, last = lines
    assert [joined.push(line) for line in first] == [None] * len(first)
    assert joined.push(last) == text
    assert not joined.open


@settings(deadline=None)
@given(st.lists(st.text(alphabet='ab\\"/ ', max_size=6), max_size=8))
def test_any_lines_are_taken_and_clear_forgets_them(lines: list[str]) -> None:
    joined = InputLines()
    for line in lines:
        if (text := joined.push(line)) is not None:
            parse(text)
            assert not joined.open
    joined.clear()
    assert joined.push("x") == "x"


@pytest.mark.parametrize(
    ("typed", "setting"),
    [
        ("temperature 0.2", ("temperature", 0.2)),
        ("temperature=0.2", ("temperature", 0.2)),
        ("top-k 5", ("top_k", 5)),
        ("seed default", ("seed", None)),
        ("stop END", ("stop", "END")),
        ('stop ["a", "b"]', ("stop", ["a", "b"])),
        ("stop a = b", ("stop", "a = b")),
        ("thinking on", ("thinking", True)),
        ("thinking off", ("thinking", False)),
        ("ignore_eos on", ("ignore_eos", True)),
    ],
)
def test_a_setting_reads(typed: str, setting: tuple[str, object]) -> None:
    assert parse_setting(typed) == setting


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("temprature 0.2", "did you mean temperature"),
        ("colour red", "there are"),
        ("temperature", "needs a value"),
        ("thinking maybe", "on or off"),
        ("n 2", "there is no setting 'n'"),
    ],
)
def test_a_wrong_setting_explains_itself(typed: str, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        parse_setting(typed)


def test_settings_are_checked_and_taken_back() -> None:
    chat = Conversation().set("temperature", 0.2).set("stop", "x").set("thinking", False)
    assert chat.settings() == {"temperature": 0.2, "stop": ["x"], "thinking": False}
    back = chat.set("stop", None).set("thinking", None)
    assert back.settings() == {"temperature": 0.2}
    with pytest.raises(InvalidRequest, match="temperature must be a number"):
        chat.set("temperature", "warm")


def test_the_system_message_is_first_replaced_and_dropped() -> None:
    chat = Conversation().say("hi").with_system("a").with_system("b")
    assert [m["content"] for m in chat.messages] == ["b", "hi"]
    assert chat.reset().messages == ({"role": "system", "content": "b"},)
    assert chat.with_system("").system is None


CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}


def test_open_calls_are_answered_in_order() -> None:
    second = {**CALL, "id": "c2"}
    chat = Conversation().say("add").answered("", tool_calls=(CALL, second))
    assert [c["id"] for c in chat.open_calls] == ["c1", "c2"]
    chat = chat.with_result("1")
    assert [c["id"] for c in chat.open_calls] == ["c2"]
    chat = chat.with_result("2")
    assert chat.open_calls == ()
    with pytest.raises(InvalidRequest, match="no tool call"):
        chat.with_result("3")
    assert [m["role"] for m in chat.messages] == ["user", "assistant", "tool", "tool"]


def test_a_saved_conversation_loads_equal() -> None:
    chat = Conversation().with_system("s").set("temperature", 0.0).set("thinking", True)
    chat = chat.say("hé").answered("ja", "hm", (CALL,)).with_result("x")
    assert Conversation().from_json(chat.to_json("tiny")) == chat
    bare = json.dumps(list(chat.messages))
    assert Conversation().from_json(bare).messages == chat.messages


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[" * 9999,
        "3",
        "{}",
        "[3]",
        '{"messages": 3}',
        '{"messages": [[]]}',
        '[{"content": "x"}]',
        '[{"role": "user", "content": 3}]',
        '{"messages": [], "settings": []}',
        '{"messages": [], "settings": {"hot": 1}}',
        '{"messages": [], "settings": {"top_p": "x"}}',
        '{"messages": [], "settings": {"thinking": "maybe"}}',
    ],
)
def test_a_file_that_is_no_conversation_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        Conversation().from_json(text)


USER = {"role": "user", "content": "add"}


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (3, r"messages\[1\] has no role"),
        ({"role": "system"}, r"messages\[1\] is of role 'system' and has no content"),
        ({"role": "user", "content": None}, "'user' and has no content"),
        ({"role": "user", "content": 3}, r"messages\[1\] has content that is not text"),
        ({"role": "assistant", "tool_calls": {}}, r"messages\[1\]\.tool_calls is not a list"),
        ({"role": "assistant", "tool_calls": [3]}, r"tool_calls\[0\] has no function"),
        ({"role": "assistant", "tool_calls": [{"id": "c1"}]}, "has no function with a name"),
        ({"role": "assistant", "tool_calls": [{"id": "c", "function": {}}]}, "with a name"),
        ({"role": "assistant", "tool_calls": [CALL, CALL | {"id": None}]}, r"\[1\] has no id"),
        ({"role": "tool", "content": "", "tool_call_id": []}, "tool_call_id that is not text"),
    ],
    ids=str,
)
def test_a_message_of_the_wrong_shape_is_named(message: object, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        Conversation().from_json(json.dumps([USER, message]))


def test_fields_that_openai_writes_as_null_are_absent() -> None:
    plain = {"role": "assistant", "content": "hi", "tool_calls": None, "refusal": None}
    calling = {"role": "assistant", "content": None, "tool_calls": [CALL], "audio": None}
    chat = Conversation().from_json(json.dumps([USER, plain]))
    assert chat.messages == (USER, {"role": "assistant", "content": "hi"})
    assert chat.open_calls == ()
    with pytest.raises(InvalidRequest, match="no tool call"):
        chat.with_result("5")
    chat = Conversation().from_json(json.dumps([USER, calling]))
    assert chat.open_calls == (CALL,)
    assert chat.with_result("5").open_calls == ()


# What people and programs write for a field, right and wrong.
ANY = st.one_of(
    st.none(),
    st.booleans(),
    st.text("ab", max_size=2),
    st.just(CALL),
    st.lists(st.one_of(st.none(), st.just(CALL), st.just({"id": "x"}), st.just([])), max_size=2),
)
FIELDS = ("content", "tool_calls", "tool_call_id", "name")
MESSAGES = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool"])},
    optional=dict.fromkeys(FIELDS, ANY),
)


@settings(deadline=None)
@given(st.lists(MESSAGES, max_size=4))
def test_what_was_loaded_can_be_gone_on_with(messages: list[dict[str, object]]) -> None:
    try:
        chat = Conversation().from_json(json.dumps(messages))
    except InvalidRequest:
        return
    assert chat.with_system("s").system == "s"
    assert len(chat.reset().messages) <= 1
    while chat.open_calls:  # a result may answer two calls, if they have one id
        chat = chat.with_result("5")
    assert Conversation().from_json(chat.to_json("tiny")).messages == chat.messages
