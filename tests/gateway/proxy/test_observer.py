"""What an observer learns, against one that parses everything."""

from __future__ import annotations

import json
import timeit
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from helexa.gateway.proxy.observer import (
    CHAT,
    COMPLETIONS,
    EVENT_BYTES,
    KEPT_BYTES,
    RESPONSES,
    TAIL_BYTES,
    Dialect,
    Observer,
    Usage,
    last_count_for,
    last_number_for,
)

KEYS = {
    CHAT: {"content", "reasoning_content", "arguments"},
    COMPLETIONS: {"text"},
    RESPONSES: {"delta"},
}
DONE = b"data: [DONE]\n\n"


class Ticks:
    """A clock that tells how often it was asked: the number of a chunk, from 0."""

    def __init__(self) -> None:
        self.now = -1

    def __call__(self) -> float:
        self.now += 1
        return self.now


def watched(
    chunks: Iterable[bytes], dialect: Dialect = CHAT, *, event_stream: bool = True
) -> Observer:
    observer = Observer(dialect, event_stream=event_stream, clock=Ticks())
    for chunk in chunks:
        observer.feed(chunk)
    return observer


def chat(**delta: Any) -> bytes:
    return event({"id": "x", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})


def event(value: Any, **style: Any) -> bytes:
    return b"data: " + json.dumps(value, **(style or {"separators": (",", ":")})).encode() + b"\n\n"


def usage(prompt: int, completion: int) -> bytes:
    counts = {"prompt_tokens": prompt, "completion_tokens": completion}
    return event({"choices": [], "usage": {**counts, "total_tokens": prompt + completion}})


# What the observer is compared with.


def pairs(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key of a document with its value; objects are lists of pairs, so repeats count."""
    if isinstance(value, list):
        for item in value:
            if isinstance(item, tuple):
                yield item
                yield from pairs(item[1])
            else:
                yield from pairs(item)


def events_of(stream: bytes) -> list[str]:
    text = stream.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")
    *whole, _ = text.split("\n\n")
    return [
        "\n".join(line[5:].removeprefix(" ") for line in one.split("\n") if line[:5] == "data:")
        for one in whole
    ]


def carries(data: str, dialect: Dialect) -> bool:
    try:
        value = json.loads(data, object_pairs_hook=lambda found: found)
    except ValueError:
        return False
    return any(
        key in KEYS[dialect] and isinstance(item, str) and item for key, item in pairs(value)
    )


def deltas_of(stream: bytes, dialect: Dialect) -> int:
    return sum(carries(data, dialect) for data in events_of(stream))


TEXTS = st.one_of(
    st.text(max_size=6),
    st.sampled_from(
        ["", '"content":"x"', '\\"content\\":\\"x', "\\", '"', "\n\n", 'x","content":"y']
    ),
)
NAMES = st.one_of(
    st.sampled_from(
        [*(key for keys in KEYS.values() for key in keys), "choices", 'a"content', "content "]
    ),
    TEXTS,
)
VALUES = st.recursive(
    st.one_of(st.none(), st.integers(), TEXTS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, min_size=1, max_size=3)
    ),
    max_leaves=8,
)


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """One event as some server may write it, with lines ending in LF."""
    if draw(st.integers(0, 5)) == 0:
        return draw(st.sampled_from([b":\n\n", DONE, b": data: x\n\n", b"\n", b"retry: 5\n\n"]))
    text = json.dumps(
        draw(VALUES),
        ensure_ascii=draw(st.booleans()),
        separators=draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,", " \t: ")])),
        indent=draw(st.sampled_from([None, None, 1])),
    )
    field = draw(st.sampled_from(["data: ", "data:"]))
    lines = [field + line for line in text.split("\n")]
    if draw(st.booleans()):
        lines.insert(0, draw(st.sampled_from(["event: x", ': "content":"x"', "id: 1", "data"])))
    return "\n".join([*lines, "", ""]).encode("utf-8", "replace")


@st.composite
def cut_streams(draw: st.DrawFn) -> list[bytes]:
    stream = b"".join(draw(st.lists(frames(), max_size=6)))
    end = draw(st.sampled_from([b"\n", b"\n", b"\r\n", b"\r"]))
    stream = stream.replace(b"\n", end)
    cuts = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    return [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]


@given(cut_streams(), st.sampled_from(list(KEYS)), st.integers(0, 3))
@example([b'data: {"content":"x"}\n', b"", b"\n"], CHAT, 0)
@example([b'data: {"content":"x"}\r', b"\n", b"\r", b"\n"], CHAT, 1)
@example([b'data: {"a\\"content":"x"}\n\n'], CHAT, 0)
@example([b'data: {\ndata: "content"\ndata: :\ndata: "x"}\n\n'], CHAT, 0)
def test_deltas_are_those_of_a_parser(chunks: list[bytes], dialect: Dialect, ask: int) -> None:
    """Also when each was complete, and however often somebody asks in between."""
    observer = Observer(dialect, event_stream=True, clock=Ticks())
    counts = []
    for at, chunk in enumerate(chunks):
        observer.feed(chunk)
        counts.append(deltas_of(b"".join(chunks[: at + 1]), dialect))
        if ask and at % ask == 0:
            assert observer.deltas == counts[-1]
    assert observer.deltas == counts[-1]
    grown = [at for at, count in enumerate(counts) if count > (counts[at - 1] if at else 0)]
    assert observer.first_delta_at == (grown[0] if grown else None)
    assert observer.last_delta_at == (grown[-1] if grown else None)


@pytest.mark.parametrize(
    ("dialect", "data", "expected"),
    [
        (CHAT, {"role": "assistant", "content": ""}, 0),
        (CHAT, {"content": None}, 0),
        (CHAT, {"content": "x", "reasoning_content": "y"}, 1),
        (CHAT, {"content": "", "reasoning_content": "y"}, 1),
        (CHAT, {"tool_calls": [{"index": 0, "function": {"arguments": '{"a"'}}]}, 1),
        (CHAT, {"content": [{"type": "text", "text": "x"}]}, 0),
        (CHAT, {"text": "x", "delta": "x"}, 0),
        (COMPLETIONS, {"choices": [{"text": "x", "content": "y"}]}, 1),
        (COMPLETIONS, {"content": "y"}, 0),
        (RESPONSES, {"type": "response.output_text.delta", "delta": "x"}, 1),
        (RESPONSES, {"type": "response.output_text.done", "text": "all"}, 0),
    ],
)
def test_what_counts_as_content(dialect: Dialect, data: Any, expected: int) -> None:
    assert watched([event(data), DONE], dialect).deltas == expected


def test_many_chunks_are_counted_with_the_times_of_the_first_and_the_last() -> None:
    chunks = [chat(role="assistant", content=""), *(chat(content=f"{n}") for n in range(1000))]
    observer = watched([*chunks, usage(225, 42), DONE])
    assert observer.deltas == 1000
    assert (observer.first_delta_at, observer.last_delta_at) == (1, 1000)
    assert (observer.first_byte_at, observer.last_byte_at) == (0, 1002)
    assert observer.usage == Usage(225, 42)


def test_what_is_no_event_stream_has_no_deltas() -> None:
    body = b'{"choices":[{"message":{"content":"Hello"}}],\n\n"usage":{"prompt_tokens": 12}}'
    observer = watched([body], event_stream=False)
    assert (observer.deltas, observer.first_delta_at, observer.error_seen) == (0, None, False)
    assert observer.usage == Usage(12)


def test_nothing_fed_nothing_learnt() -> None:
    observer = watched([])
    assert (observer.usage, observer.deltas, observer.first_byte_at) == (None, 0, None)


@pytest.mark.parametrize("place", ["first", "last", "cut", "none"])
@pytest.mark.parametrize("step", [100, 7000, 1 << 20])
def test_a_long_event_is_judged_whole_and_not_kept(place: str, step: int) -> None:
    filler = b"y" * (3 * EVENT_BYTES)
    found = b'"content":"x",'
    at = {"first": 0, "last": len(filler), "cut": EVENT_BYTES - 5}.get(place)
    inside = filler if at is None else filler[:at] + b'",' + found + b'"pad":"' + filler[at:]
    stream = chat(content="a") + b'data: {"pad":"' + inside + b'"}\n\n' + chat(content="b")
    observer = Observer(CHAT, event_stream=True, clock=Ticks())
    for start in range(0, len(stream), step):
        observer.feed(stream[start : start + step])
        assert len(observer._events._begun) <= EVENT_BYTES + step  # type: ignore[union-attr]  # it is there
    assert observer.deltas == (2 if place == "none" else 3)


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (b'data: {"error":{"message":"x"}}\n\n', True),
        (b'event: error\r\ndata:{ "error" : "x"}\r\n\r\n', True),
        (b'event: error\ndata: {"type":"error","message":"x","code":"y"}\n\n', True),
        (b'data: {"type": "response.failed", "response":{}}\n\n', True),
        (b'data: {"object":"error","message":"x"}\n\n', True),
        (b'data: {"type":"response.output_text.delta","delta":"error"}\n\n', False),
        (b'data: {"error":null,"choices":[]}\n\n', False),
        (b'data: {"response":{"error":null}}\n\n', False),
        (b'data: {"choices":[{"delta":{"content":"{\\"error\\":1}"}}]}\n\n', False),
        (b'data: {"error":{"message":"never ended"}}\n', False),
        (b'data: {"error":{"message":"' + b"x" * (2 * EVENT_BYTES) + b'"}}\n\n', True),
    ],
)
def test_errors_inside_a_stream_are_seen(frame: bytes, expected: bool) -> None:
    parts = [chat(content="x"), *(frame[at : at + 9000] for at in range(0, len(frame), 9000))]
    assert watched(parts).error_seen is expected
    assert watched([chat(content="x"), frame], event_stream=False).error_seen is False


# Usage.

ESCAPED = json.dumps({"content": '{"prompt_tokens":9,"completion_tokens":9}'}).encode()


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (usage(225, 42) + DONE, Usage(225, 42)),
        (b'{"usage": { "prompt_tokens" : 12 , "completion_tokens" : 7 }}', Usage(12, 7)),
        (
            b'{"completion_tokens":1}{"completion_tokens":99,"completion_tokens_details":{"x":5}}',
            Usage(0, 99),
        ),
        (DONE, None),
        (b"", None),
        (b'{"prompt_tokens":null,"completion_tokens":null}', None),
        (ESCAPED, None),
        (
            b'{"prompt_tokens":10,"prompt_tokens_details":{"cached_tokens":6},"completion_tokens":5}',
            Usage(10, 5, 6),
        ),
    ],
)
def test_g165_scan(body: bytes, expected: Usage | None) -> None:
    assert watched([body]).usage == expected
    assert watched(bytes([byte]) for byte in body).usage == expected
    assert watched([b"x" * (1 << 20), body]).usage == expected
    assert watched([body], event_stream=False).usage == expected


def test_g165_responses_have_their_own_names() -> None:
    body = (
        b'{"usage":{"input_tokens":5,"input_tokens_details":{"cached_tokens":2},"output_tokens":6}}'
    )
    assert watched([body], RESPONSES).usage == Usage(5, 6, 2)
    assert watched([body], CHAT).usage is None


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("7", 7),
        ("12.5", 12),
        ("null", 3),
        ('"8"', 3),
        ("-4", 3),
        ("99999999999999999999", 3),
        ("9" * 5000, 3),
        (str(2**63 - 1), 2**63 - 1),
        ("", 3),
    ],
)
def test_the_last_count_that_is_one(written: str, expected: int) -> None:
    tail = f'{{"k":2,"k" : 3,"kk":5,"k":{written}'.encode()
    assert last_count_for(tail, b"k") == expected


def test_numbers_with_a_fraction() -> None:
    assert last_number_for(b'{"helexa_image_units": 9.437184}', b"helexa_image_units") == 9.437184
    assert last_number_for(b'{"k":1.5e1,"k":9e999}', b"k") == 15
    assert last_number_for(b"{}", b"k") is None


@given(
    st.lists(st.tuples(st.sampled_from(["n", "m", 'a"n']), VALUES), max_size=6),
    st.sampled_from([(",", ":"), (", ", ": ")]),
)
def test_counts_are_those_of_a_parser(
    fields: list[tuple[str, Any]], separators: tuple[str, str]
) -> None:
    text = json.dumps([{key: value} for key, value in fields], separators=separators)
    document = json.loads(text, object_pairs_hook=lambda found: found)
    whole = [value for key, value in pairs(document) if key == "n" and type(value) is int]
    wanted = [value for value in whole if 0 <= value < 2**63]
    assert last_count_for(text.encode(), b"n") == (wanted[-1] if wanted else None)


# The tail.


@given(st.lists(st.integers(1, 30000), max_size=30))
def test_the_tail_is_the_newest_text(sizes: list[int]) -> None:
    text = ("0123456789" * 100000)[: sum(sizes)].encode()
    ends = [sum(sizes[: at + 1]) for at in range(len(sizes))]
    observer = watched(text[end - size : end] for end, size in zip(ends, sizes, strict=True))
    assert text.endswith(observer.tail)
    assert min(len(text), KEPT_BYTES - 3) <= len(observer.tail) <= TAIL_BYTES


@pytest.mark.parametrize("step", [1, 5000, 1 << 20])
def test_the_tail_begins_with_a_whole_character(step: int) -> None:
    text = ("€" * 50000).encode()
    observer = watched(text[at : at + step] for at in range(0, len(text), step))
    assert set(observer.tail.decode()) == {"€"}


def test_watching_costs_a_stream_little() -> None:
    chunks = [*(chat(content=f"token{n}") for n in range(100)), usage(10, 100), DONE]

    def one_stream() -> None:
        observer = watched(chunks)
        assert (observer.deltas, observer.usage) == (100, Usage(10, 100))

    best = min(timeit.repeat(one_stream, number=5, repeat=5)) / 5 / len(chunks)
    assert best < 50e-6  # about 2 microseconds where nothing else runs
