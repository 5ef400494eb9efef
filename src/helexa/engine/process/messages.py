"""What a host and its child say to each other, as frames on a socket.

A frame is four bytes of length, big end first, and that much JSON: ``{"<message>": {fields}}``.
"""

from __future__ import annotations

import json
import socket
import struct
from dataclasses import dataclass
from typing import Final

from helexa.engine.config import EngineConfig
from helexa.engine.outputs import EngineFacts, EngineStatus, Request, StepOutput
from helexa.engine.process.plain import from_plain, to_plain
from helexa.errors import HelexaError, ProtocolError

MAX_FRAME: Final = 256 * 2**20
_LENGTH: Final = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class Build:
    """To the child, first: load a model and serve it.

    ``model`` is a folder, a GGUF file, or "tiny".
    """

    model: str
    config: EngineConfig


@dataclass(frozen=True, slots=True)
class Submit:
    """To the child: run a request; its outputs carry ``id``."""

    id: int
    request: Request


@dataclass(frozen=True, slots=True)
class Abort:
    """To the child: stop a request (see `Host.abort`); no further output of it matters."""

    id: int
    completed: bool = False


@dataclass(frozen=True, slots=True)
class Close:
    """To the child: end every request and exit."""


@dataclass(frozen=True, slots=True)
class Progress:
    """From the child, while it loads."""

    name: str
    done: int
    total: int | None


@dataclass(frozen=True, slots=True)
class Built:
    """From the child: the model is loaded."""

    facts: EngineFacts
    status: EngineStatus


@dataclass(frozen=True, slots=True)
class Outputs:
    """From the child: what a step did, and the status if it has changed."""

    outputs: tuple[StepOutput, ...]
    status: EngineStatus | None = None


@dataclass(frozen=True, slots=True)
class Alive:
    """From the child, several times a second: how long its current step has taken so far.

    ``step_s`` is None between steps.
    """

    status: EngineStatus
    step_s: float | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """From the child, last: why it ends; EngineClosed if it was told to."""

    error: HelexaError


ToChild = Build | Submit | Abort | Close
FromChild = Progress | Built | Outputs | Alive | Ended
_KINDS: Final = {
    kind.__name__: kind
    for kind in (Build, Submit, Abort, Close, Progress, Built, Outputs, Alive, Ended)
}


def write(message: ToChild | FromChild) -> bytes:
    """A message as a frame."""
    body = json.dumps({type(message).__name__: to_plain(message)}, separators=(",", ":")).encode()
    if len(body) > MAX_FRAME:
        raise ProtocolError(f"a message of {len(body)} bytes is too long to send")
    return _LENGTH.pack(len(body)) + body


def read(body: bytes) -> ToChild | FromChild:
    """The message in a frame's body; ProtocolError if it is none."""
    try:
        ((name, fields),) = json.loads(body).items()
        kind = _KINDS[name]
    except (ValueError, KeyError, AttributeError, RecursionError) as error:
        raise ProtocolError(f"not a message: {body[:80]!r}") from error
    message: ToChild | FromChild = from_plain(kind, fields)
    return message


class FrameReader:
    """Cuts what arrives on a socket into frames.

    It arrives in a buffer that stays: `recv` would take a new one of that size each time, and what
    is kept of it would lie scattered over a heap that grows for ever.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = bytearray()
        self._arrivals = memoryview(bytearray(2**18))

    def read(self) -> bytes | None:
        """The body of the next frame, None at the end of the stream.

        TimeoutError after the socket's timeout without a byte, and what had arrived is kept;
        ProtocolError for a frame that is cut off or too long.
        """
        while True:
            if len(self._buffer) >= _LENGTH.size:
                (length,) = _LENGTH.unpack_from(self._buffer)
                if length > MAX_FRAME:
                    raise ProtocolError(f"a frame of {length} bytes is announced")
                end = _LENGTH.size + length
                if len(self._buffer) >= end:
                    body = bytes(self._buffer[_LENGTH.size : end])
                    del self._buffer[:end]
                    return body
            size = self._sock.recv_into(self._arrivals)
            if not size:
                if self._buffer:
                    raise ProtocolError("the stream ended within a frame")
                return None
            self._buffer += self._arrivals[:size]
