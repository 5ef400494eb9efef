from __future__ import annotations

from helexa.protocol.sse import DONE, KEEP_ALIVE, Frame


def test_frames_are_bytes() -> None:
    assert Frame({"a": 1}).encode() == b'data: {"a":1}\n\n'
    assert Frame({"a": "\n"}, "response.x").encode() == b'event: response.x\ndata: {"a":"\\n"}\n\n'
    assert DONE.encode() == b"data: [DONE]\n\n"
    assert KEEP_ALIVE == b":\n\n"
