"""What crosses to a child arrives as it was sent, and nothing else does."""

from __future__ import annotations

import json
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helexa.engine.config import EngineConfig
from helexa.engine.outputs import (
    CacheReport,
    EngineFacts,
    EngineStatus,
    PrefixStats,
    Request,
    StepOutput,
    Timing,
    TokenLogprobs,
)
from helexa.engine.params import SamplingParams
from helexa.engine.process import messages
from helexa.engine.process.messages import FrameReader, read, write
from helexa.engine.process.plain import from_plain, read_error, to_plain, write_error
from helexa.errors import CapacityError, HelexaError, PreflightError, PromptTooLong, ProtocolError

PARAMS = SamplingParams(
    max_tokens=7, temperature=0.3, logit_bias={3: -1.5}, stop=("a", "é\n"), stop_token_ids=(4,)
)
STATUS = EngineStatus(
    running=2, kv_used_mb=1.5, prefix=PrefixStats(3, last_miss=CacheReport(1, "new"))
)
OUTPUT = StepOutput(
    3,
    (1, 2),
    (TokenLogprobs(1, -0.25, ((1, -0.25), (9, float("-inf")))),),
    "stop",
    cache=CacheReport(16, "diverged", 20, 40),
    timing=Timing(1.0, 2.0, 0.5),
    completion_tokens=2,
)
ALL = [
    messages.Build("tiny", EngineConfig(max_context=64, disabled=frozenset({"flash_attn"}))),
    messages.Submit(1, Request((1, 2), PARAMS, generated=(5,), cap=9)),
    messages.Abort(3),
    messages.Close(),
    messages.Progress("weights", 1, None),
    messages.Built(EngineFacts("cpu", "float32", 1, 0.5, 64, 10, 10, (1, 2)), STATUS),
    messages.Outputs((OUTPUT, StepOutput(4)), STATUS),
    messages.Alive(STATUS, 0.25),
    messages.Alive(STATUS),
]


@pytest.mark.parametrize("message", ALL, ids=lambda m: type(m).__name__)
def test_a_message_arrives_as_it_was_sent(message: messages.ToChild | messages.FromChild) -> None:
    assert read(write(message)[4:]) == message


@pytest.mark.parametrize(
    "error",
    [
        PromptTooLong(7, 5),
        CapacityError("no room", required_mb=3, budget_mb=2, hint="buy more"),
        PreflightError("empty_repo", "nothing there", available=("q4", "q8")),
        HelexaError("plain"),
    ],
    ids=lambda e: type(e).__name__,
)
def test_an_error_arrives_as_it_was_sent(error: HelexaError) -> None:
    found = read_error(json.loads(json.dumps(write_error(error))))
    assert type(found) is type(error)
    assert (str(found), vars(found), found.code) == (str(error), vars(error), error.code)


def test_an_error_of_a_class_we_do_not_know_is_still_an_error() -> None:
    found = read_error({"class": "Subprocess", "attributes": {"message": "x", "hint": "y"}})
    assert type(found) is HelexaError and str(found) == "x; y"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b'{"Submit": {}}',
        b'{"Submit": {"id": "1", "request": {}}}',
        b'{"Abort": {"id": true}}',
        b'{"Abort": {"id": 1, "more": 2}}',
        b'{"os.system": {"command": "true"}}',
        b'{"Abort": {"id": 1}, "Close": {}}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_message_is_refused(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        read(body)


@given(st.lists(st.one_of(st.integers(), st.booleans(), st.floats(), st.none(), st.text())))
def test_a_prompt_is_read_as_item_by_item(items: list[object]) -> None:
    """Long ones are read another way, which must not take anything else for an id."""
    assert read_as(tuple[int, ...], items) == one_by_one(items)
    whole = [item for item in items if type(item) is int]
    assert read_as(tuple[int, ...], whole) == tuple(whole)
    assert to_plain(tuple(items)) == items
    assert json.dumps(to_plain(tuple(whole))) == json.dumps(whole)


def read_as(kind: object, data: object) -> object:
    try:
        return from_plain(kind, data)
    except ProtocolError:
        return "refused"


def one_by_one(items: list[object]) -> object:
    """The definition: a tuple of what each item is."""
    read = [read_as(int, item) for item in items]
    return "refused" if "refused" in read else tuple(read)


def test_what_is_no_plain_data_is_not_sent() -> None:
    with pytest.raises(ProtocolError, match="object"):
        write(messages.Submit(1, Request((1,), PARAMS, images=(object(),))))


@given(st.lists(st.binary(max_size=300), max_size=8), st.lists(st.integers(1, 90), min_size=1))
def test_frames_come_out_however_they_were_cut(bodies: list[bytes], sizes: list[int]) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        stream = b"".join(struct.pack(">I", len(body)) + body for body in bodies)
        at = 0
        while at < len(stream):
            size = sizes[at % len(sizes)]
            theirs.sendall(stream[at : at + size])
            at += size
        theirs.shutdown(socket.SHUT_WR)
        reader = FrameReader(ours)
        assert [reader.read() for _ in bodies] == bodies
        assert reader.read() is None


def test_a_silent_line_times_out_and_keeps_what_had_arrived() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(0.01)
        frame = write(messages.Abort(3))
        theirs.sendall(frame[:7])
        reader = FrameReader(ours)
        with pytest.raises(TimeoutError):
            reader.read()
        theirs.sendall(frame[7:])
        body = reader.read()
        assert body is not None and read(body) == messages.Abort(3)


@pytest.mark.parametrize("sent", [b"\x00\x00", b"\x00\x00\x00\x05ab", b"\xff\xff\xff\xff"])
def test_a_broken_frame_is_refused(sent: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(sent)
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(ProtocolError):
            FrameReader(ours).read()


def test_what_is_its_default_is_not_sent() -> None:
    """A step of many streams is mostly that."""
    sent = messages.Outputs((StepOutput(3, (17,)),))
    assert write(sent)[4:] == b'{"Outputs":{"outputs":[{"id":3,"token_ids":[17]}]}}'
    assert read(write(sent)[4:]) == sent
