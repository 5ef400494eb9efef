"""Output as events: the same whatever the tokens, streamed or whole."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helexa.text.events import Reasoning, Text, ToolCall
from helexa.text.parsing.markers import Markers, probe_markers
from helexa.text.parsing.parser import OutputParser
from helexa.text.tokenizer import Tokenizer
from tests.text.builders import MARKERS, feed, function_tool, quick, read

WEATHER = function_tool("weather", city={"type": "string"}, days={"type": "integer"})
JSON_CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Brno"}}\n</tool_call>'
TAG_CALL = (
    "<tool_call>\n<function=weather>\n<parameter=city>\nBrno\n</parameter>\n"
    "<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>"
)
BRNO = '{"city":"Brno"}'
BRNO_3 = '{"city":"Brno","days":3}'

# Name → output, (text, reasoning, [(name, arguments)]).
CASES: dict[str, tuple[str, tuple[str, str, list[tuple[str, str]]]]] = {
    "plain": ("Hello 🙂 world", ("Hello 🙂 world", "", [])),
    "empty": ("", ("", "", [])),
    "reasoning": ("<think>hm\n</think>\n\nHi", ("Hi", "hm\n", [])),
    "reasoning cut": ("<think>hm, 你", ("", "hm, 你", [])),
    "reasoning reopened": ("<think>a</think>\nb<think>c</think> d", ("bd", "ac", [])),
    "stray end of reasoning": ("a</think> b", ("a b", "", [])),
    "json call": (JSON_CALL, ("", "", [("weather", BRNO)])),
    "tag call": (TAG_CALL, ("", "", [("weather", BRNO_3)])),
    "call after reasoning": (f"<think>a</think>\n\n{JSON_CALL}", ("", "a", [("weather", BRNO)])),
    "call inside reasoning": (
        f"<think>a{JSON_CALL}b</think> c",
        ("c", "ab", [("weather", BRNO)]),
    ),
    "two calls and text": (
        f"Let me check.\n{JSON_CALL}\nand{TAG_CALL}\ndone",
        ("Let me check.\n\nand\ndone", "", [("weather", BRNO), ("weather", BRNO_3)]),
    ),
    "prose body": (
        "a <tool_call>I will</tool_call> b",
        ("a <tool_call>I will</tool_call> b", "", []),
    ),
    "prose body in reasoning": (
        "<think>a<tool_call>b</tool_call>c</think>d",
        ("d", "a<tool_call>b</tool_call>c", []),
    ),
    "unterminated": ("a<tool_call>\n{", ("a<tool_call>\n{", "", [])),
    "unterminated in reasoning": ("<think>a<tool_call>b", ("", "a<tool_call>b", [])),
    "stray end of call": ("a</tool_call>b", ("ab", "", [])),
    "call opened twice": (
        f"<tool_call>oops {JSON_CALL}",
        ("<tool_call>oops ", "", [("weather", BRNO)]),
    ),
    "reasoning markers in a call": (
        '<tool_call>{"name":"f","arguments":{"s":"<think>x</think>"}}</tool_call>',
        ("", "", [("f", '{"s":"<think>x</think>"}')]),
    ),
    "empty call": ("<tool_call></tool_call>", ("<tool_call></tool_call>", "", [])),
    "space only": ("<think>a</think> \n\t", ("", "a", [])),
}


def numbered(calls: list[tuple[str, str]]) -> list[tuple[int, str, str]]:
    return [(index, name, arguments) for index, (name, arguments) in enumerate(calls)]


def cut_anywhere(tokenizer: Tokenizer, output: str, cuts: Callable[[int], int]) -> list[int]:
    """Tokens for a text whose plain parts are cut into runs of characters of chosen lengths."""
    ids: list[int] = []
    for part in re.split("(" + "|".join(map(re.escape, MARKERS)) + ")", output):
        while part:
            length = len(part) if part in MARKERS else cuts(len(part))
            ids += tokenizer.encode(part[:length], add_special_tokens=False)
            part = part[length:]
    return ids


@pytest.mark.parametrize(("output", "expected"), CASES.values(), ids=list(CASES))
def test_e078_e083_whole_outputs(
    output: str, expected: tuple[str, str, list[tuple[str, str]]], byte_level: Tokenizer
) -> None:
    text, reasoning, calls = expected

    assert read(byte_level, output, tools=[WEATHER]).summary == (text, reasoning, numbered(calls))


@pytest.mark.parametrize(("output", "expected"), CASES.values(), ids=list(CASES))
@quick
@given(data=st.data())
def test_e085_any_cut_into_tokens_gives_the_same(
    output: str,
    expected: tuple[str, str, list[tuple[str, str]]],
    data: st.DataObject,
    byte_level: Tokenizer,
) -> None:
    ids = cut_anywhere(byte_level, output, lambda left: data.draw(st.integers(1, left)))
    text, reasoning, calls = expected

    result = read(byte_level, ids, tools=[WEATHER])

    assert result.summary == (text, reasoning, numbered(calls))
    assert all(e.text for e in result.events if isinstance(e, Text | Reasoning))


LITERAL = {name: case for name, case in CASES.items() if "think" not in case[0]}


@pytest.mark.parametrize(("output", "expected"), LITERAL.values(), ids=list(LITERAL))
@quick
@given(data=st.data())
def test_e085_literal_markers_in_any_cut_give_the_same(
    output: str,
    expected: tuple[str, str, list[tuple[str, str]]],
    data: st.DataObject,
    unmarked: Tokenizer,
) -> None:
    ids: list[int] = []
    rest = output
    while rest:
        length = data.draw(st.integers(1, len(rest)))
        ids += unmarked.encode(rest[:length], add_special_tokens=False)
        rest = rest[length:]
    text, reasoning, calls = expected

    assert read(unmarked, ids, tools=[WEATHER]).summary == (text, reasoning, numbered(calls))


@quick
@given(ids=st.lists(st.integers(0, 370), max_size=40), stop=st.lists(st.text("ae ", min_size=1)))
def test_any_tokens_end_in_a_well_formed_answer(
    ids: list[int], stop: list[str], byte_level: Tokenizer
) -> None:
    result = read(byte_level, ids, tools=[WEATHER], stop=stop)

    assert all(e.text for e in result.events if isinstance(e, Text | Reasoning))
    assert [call.index for call in result.calls] == list(range(len(result.calls)))
    assert not any(
        s in event.text for s in stop for event in result.events if isinstance(event, Text)
    )


# -- reasoning ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "output", "text", "reasoning"),
    [
        ("<think>\n", "hm</think>\n\nHi", "Hi", "hm"),
        ("<think>\n", "hm", "", "hm"),
        ("<think>\n\n</think>\n\n", "Hi", "Hi", ""),
        ("<think>\n\n</think>", "\n\nHi", "Hi", ""),
        ("<think>a</think>b", " Hi", " Hi", ""),
        ("<think>a</think>b<think>", "c", "", "c"),
        ("", "<think>c</think>Hi", "Hi", "c"),
    ],
)
def test_e078_the_prompt_decides_where_it_starts(
    prompt: str, output: str, text: str, reasoning: str, byte_level: Tokenizer
) -> None:
    result = read(byte_level, output, prompt=prompt)

    assert (result.text, result.reasoning) == (text, reasoning)


def test_e078_without_markers_all_is_text(unmarked: Tokenizer) -> None:
    assert read(unmarked, "<think>a</think>b").text == "<think>a</think>b"


def test_generate_parses_nothing(byte_level: Tokenizer) -> None:
    output = f"<think>a</think>\n\n{JSON_CALL}"

    assert read(byte_level, output, parse=False, tools=[WEATHER]).summary == (output, "", [])


def test_e079_reasoning_tokens_are_those_between_the_markers(byte_level: Tokenizer) -> None:
    parser = OutputParser(byte_level, probe_markers(byte_level))
    inner = byte_level.encode("ab")
    call = byte_level.encode(f"{JSON_CALL}</think>Hi")
    ids = [*byte_level.encode("<think>"), *inner, *call]

    feed(parser, ids)

    assert parser.reasoning_tokens == len(inner)
    assert parser.token_count == len(ids)


@pytest.mark.parametrize("size", [1, 2, 100])
def test_e080_white_space_after_reasoning_is_dropped(size: int, byte_level: Tokenizer) -> None:
    ids = cut_anywhere(byte_level, "<think>a</think>\n\nHi\n", lambda left: min(size, left))

    assert read(byte_level, ids).text == "Hi\n"


# -- calls ----------------------------------------------------------------------------------------


def test_e083_calls_have_distinct_ids(byte_level: Tokenizer) -> None:
    first, second = read(byte_level, JSON_CALL + JSON_CALL).calls

    assert re.fullmatch("call_[0-9a-f]{32}", first.id)
    assert first.id != second.id
    assert (first.index, second.index) == (0, 1)
    assert first.text == ""


def test_text_before_a_call_comes_before_it(byte_level: Tokenizer) -> None:
    events = read(byte_level, f"a S{JSON_CALL}b", stop=["STOP"]).events

    at = next(at for at, event in enumerate(events) if isinstance(event, ToolCall))
    assert "".join(event.text for event in events[:at]) == "a S"
    assert events[at + 1 :] == [Text("b")]


def test_literal_markers_count_only_with_tools(unmarked: Tokenizer) -> None:
    assert read(unmarked, JSON_CALL).text == JSON_CALL
    assert read(unmarked, JSON_CALL, tools=[WEATHER]).calls[0].name == "weather"


def test_marker_tokens_count_without_tools(byte_level: Tokenizer) -> None:
    assert read(byte_level, JSON_CALL).calls[0].name == "weather"
    assert read(byte_level, JSON_CALL, markers=Markers()).text == JSON_CALL


@pytest.mark.parametrize(
    ("output", "stop", "reason", "expected"),
    [
        (JSON_CALL, (), "stop", "tool_calls"),
        (JSON_CALL, (), "length", "length"),
        ("Hi", (), "stop", "stop"),
        ("Hi", (), "length", "length"),
        ("Hi", ("i",), "length", "stop"),
        (JSON_CALL + "Hi", ("i",), "length", "tool_calls"),
    ],
)
def test_e084_finish_reason(
    output: str, stop: tuple[str, ...], reason: str, expected: str, byte_level: Tokenizer
) -> None:
    parser = OutputParser(byte_level, probe_markers(byte_level), stop=stop)
    feed(parser, byte_level.encode(output))

    assert parser.finish_reason("stop" if reason == "stop" else "length") == expected


# -- stop strings ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "stop", "text"),
    [
        ("one two three", ["two"], "one "),
        ("one two three", ["three", "two"], "one "),
        ("<think>two</think>one two", ["two"], "one "),
        (f"one {JSON_CALL}two", ["Brno"], "one two"),
        ("one tw", ["two"], "one tw"),
        ("<think>a</think>\n\none", ["\n"], "one"),
        ("a<tool_call>b STOP</tool_call>c", ["STOP"], "a<tool_call>b "),
    ],
    ids=["cut", "earliest", "reasoning", "call", "tail", "dropped space", "bad call"],
)
@quick
@given(data=st.data())
def test_e059_stop_strings(
    output: str, stop: list[str], text: str, data: st.DataObject, byte_level: Tokenizer
) -> None:
    ids = cut_anywhere(byte_level, output, lambda left: data.draw(st.integers(1, left)))

    assert read(byte_level, ids, stop=stop).text == text


def test_e059_tokens_up_to_the_match_count(byte_level: Tokenizer) -> None:
    parser = OutputParser(byte_level, probe_markers(byte_level), stop=["b"])
    ids = [byte_level.token_to_id(char) or 0 for char in "abcd"]

    feed(parser, ids)

    assert parser.stopped
    assert parser.token_count == 2
    assert parser.push(ids[0]) == []


def test_stop_strings_wait_for_min_tokens(byte_level: Tokenizer) -> None:
    ids = [byte_level.token_to_id(char) or 0 for char in "abcabc"]

    assert read(byte_level, ids, stop=["b"], min_tokens=2).text == "a"
    assert read(byte_level, ids, stop=["b"], min_tokens=3).text == "abca"


def test_finish_gives_its_events_once(byte_level: Tokenizer) -> None:
    parser = OutputParser(byte_level, probe_markers(byte_level), stop=["ab"])
    parser.push(byte_level.token_to_id("a") or 0)

    assert parser.finish() == [Text("a")]
    assert parser.finish() == []
    assert parser.push(1) == []
