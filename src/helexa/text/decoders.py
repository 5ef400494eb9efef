"""The decoders of ``tokenizer.json``, each as a step that works piece by piece.

A step takes one vocabulary piece and gives what it can already say of it; ``flush`` gives the rest.
A decoder is a chain of steps. What comes out in parts is what the ``tokenizers`` library gives at
once, with one exception: where a run of byte pieces has bad bytes in it, its good characters stay.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

REPLACEMENT = "\ufffd"


class Step:
    """One decoder step; as it stands it passes pieces on unchanged."""

    def push(self, piece: str) -> list[str]:
        """Take a piece, give the pieces that are settled by it."""
        return [piece]

    def flush(self) -> list[str]:
        """Give what was held back."""
        return []

    def convert(self, piece: bytes | str) -> bytes | str:
        """Turn a piece in the middle of a text into its text or bytes, keeping no state."""
        return piece


class ByteLevel(Step):
    """GPT-2 style: each character of a piece is a byte of one long text."""

    def __init__(self) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, piece: str) -> list[str]:
        return [self._utf8.decode(_byte_level(piece))]

    def flush(self) -> list[str]:
        tail = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return [tail]

    def convert(self, piece: bytes | str) -> bytes | str:
        return _byte_level(piece) if isinstance(piece, str) else piece


class ByteFallback(Step):
    """SentencePiece style: ``<0xE4>`` is a byte; a character is given with its last byte."""

    def __init__(self) -> None:
        self._bytes = b""

    def push(self, piece: str) -> list[str]:
        byte = _fallback_byte(piece)
        if byte is None:
            return [*self.flush(), piece] if self._bytes else [piece]
        self._bytes += byte
        return self._settled(final=False)

    def flush(self) -> list[str]:
        return self._settled(final=True)

    def convert(self, piece: bytes | str) -> bytes | str:
        byte = _fallback_byte(piece) if isinstance(piece, str) else None
        return piece if byte is None else byte

    def _settled(self, final: bool) -> list[str]:
        out = []
        while self._bytes:
            try:
                out.append(self._bytes.decode())
                self._bytes = b""
            except UnicodeDecodeError as error:
                if error.start:
                    out.append(self._bytes[: error.start].decode())
                self._bytes = self._bytes[error.start :]
                if error.reason == "unexpected end of data" and not final:
                    break
                bad = error.end - error.start
                out.append(REPLACEMENT * bad)
                self._bytes = self._bytes[bad:]
        return out


class Replace(Step):
    """Replace a text, or what a regular expression matches, inside each piece."""

    def __init__(self, pattern: re.Pattern[str], content: str) -> None:
        self._pattern = pattern
        self._content = content

    def push(self, piece: str) -> list[str]:
        return [self._pattern.sub(lambda _: self._content, piece)]

    def convert(self, piece: bytes | str) -> bytes | str:
        return self.push(piece)[0] if isinstance(piece, str) else piece


class Metaspace(Step):
    """A mark stands for a space; the first piece loses it unless none is ever prepended."""

    def __init__(self, mark: str, prepend_scheme: str) -> None:
        self._mark = mark
        self._first = prepend_scheme != "never"

    def push(self, piece: str) -> list[str]:
        space = "" if self._first else " "
        self._first = False
        return [piece.replace(self._mark, space)]

    def convert(self, piece: bytes | str) -> bytes | str:
        return piece.replace(self._mark, " ") if isinstance(piece, str) else piece


class StripPiece(Step):
    """Cut up to ``start`` leading and ``stop`` trailing ``content`` characters off each piece."""

    def __init__(self, content: str, start: int, stop: int) -> None:
        self._content, self._start, self._stop = content, start, stop

    def push(self, piece: str) -> list[str]:
        begin = _run(piece, self._content, self._start)
        end = _run(piece[begin:][::-1], self._content, self._stop)
        return [piece[begin : len(piece) - end]]


class StripText(Step):
    """The same for pieces that were fused into one text: only its two ends are cut."""

    def __init__(self, content: str, start: int, stop: int) -> None:
        self._content, self._start, self._stop = content, start, stop
        self._held = ""

    def push(self, piece: str) -> list[str]:
        if self._start:
            cut = _run(piece, self._content, self._start)
            self._start = self._start - cut if cut == len(piece) else 0
            piece = piece[cut:]
        if not self._stop:
            return [piece]
        text = self._held + piece
        self._held = text[-self._stop :]
        return [text[: -self._stop]]

    def flush(self) -> list[str]:
        held, self._held = self._held, ""
        return [held[: len(held) - _run(held[::-1], self._content, self._stop)]]


class SpaceBetween(Step):
    """What the library does without a decoder: pieces joined with spaces."""

    def __init__(self) -> None:
        self._first = True

    def push(self, piece: str) -> list[str]:
        text = piece if self._first else " " + piece
        self._first = False
        return [text]


class AtOnce(Step):
    """A decoder that cannot be taken apart: everything is held until the flush."""

    def __init__(self, decode: Callable[[list[str]], str]) -> None:
        self._decode = decode
        self._pieces: list[str] = []

    def push(self, piece: str) -> list[str]:
        self._pieces.append(piece)
        return []

    def flush(self) -> list[str]:
        pieces, self._pieces = self._pieces, []
        return [self._decode(pieces)] if pieces else []


class Decoder:
    """A chain of steps from vocabulary pieces to text; keeps the state of one text."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = tuple(steps)

    def push(self, piece: str) -> str:
        """Take the next piece, give the text that is settled by it; never part of a character."""
        return "".join(self._run([piece], 0))

    def flush(self) -> str:
        """Give what was held back; an incomplete character becomes U+FFFD."""
        out: list[str] = []
        for at, step in enumerate(self._steps):
            out += self._run(step.flush(), at + 1)
        return "".join(out)

    def piece_bytes(self, piece: str) -> bytes:
        """What a piece stands for in the middle of a text; keeps no state."""
        value: bytes | str = piece
        for step in self._steps:
            value = step.convert(value)
        return value.encode() if isinstance(value, str) else value

    def _run(self, pieces: list[str], first: int) -> list[str]:
        for step in self._steps[first:]:
            pieces = [out for piece in pieces for out in step.push(piece)]
        return pieces


def parse_decoder(config: Mapping[str, Any] | None, decode: Callable[[list[str]], str]) -> Decoder:
    """Build the chain for a ``decoder`` section; ``decode`` serves types unknown here."""
    if config is None:
        return Decoder([SpaceBetween()])
    parts = config["decoders"] if config["type"] == "Sequence" else [config]
    steps: list[Step] = []
    fused = False
    for part in parts:
        if part["type"] == "Fuse":
            fused = True
            continue
        step = _step(part, fused)
        if step is None:
            return Decoder([AtOnce(decode)])
        fused = fused or isinstance(step, ByteLevel)
        steps.append(step)
    return Decoder(steps)


def _step(part: Mapping[str, Any], fused: bool) -> Step | None:
    match part["type"]:
        case "ByteLevel" if not fused:
            return ByteLevel()
        case "ByteFallback" if not fused:
            return ByteFallback()
        case "Metaspace" if not fused:
            return Metaspace(part["replacement"], part["prepend_scheme"])
        case "Replace" if not fused:
            pattern = part["pattern"]
            text = pattern.get("Regex") or re.escape(pattern["String"])
            try:
                return Replace(re.compile(text), part["content"])
            except re.error:  # the library's expressions can say more than Python's
                return None
        case "Strip":
            strip = StripText if fused else StripPiece
            return strip(part["content"], part["start"], part["stop"])
    return None


@cache
def _byte_alphabet() -> Mapping[str, int]:
    """The GPT-2 alphabet: printable Latin-1 stands for itself, other bytes for U+0100 and up."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)]
    plain += range(ord("®"), ord("ÿ") + 1)
    other = [byte for byte in range(256) if byte not in set(plain)]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(other)}


def _byte_level(piece: str) -> bytes:
    alphabet = _byte_alphabet()
    try:
        return bytes([alphabet[char] for char in piece])
    except KeyError:  # an added token in plain text
        return piece.encode()


def _fallback_byte(piece: str) -> bytes | None:
    if len(piece) == 6 and re.fullmatch("<0x[0-9A-Fa-f]{2}>", piece):
        return bytes([int(piece[3:5], 16)])
    return None


def _run(text: str, char: str, limit: int) -> int:
    """How many of the first ``limit`` characters are ``char``, from the start on."""
    count = 0
    while count < limit and text[count : count + 1] == char:
        count += 1
    return count
