"""Writing GGUF files: metadata, the table of tensors, and their bytes as they are made.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import BinaryIO

    from helexa.engine.checkpoint.gguf_types import GGUFType

MAGIC, VERSION, ALIGNMENT = b"GGUF", 3, 32
U32, I32, F32, BOOL, STRING, ARRAY, U64 = 4, 5, 6, 7, 8, 9, 10
PACKED = {U32: "<I", I32: "<i", F32: "<f", BOOL: "<?", U64: "<Q"}

Value = str | bool | int | float | list[str] | list[int] | list[float]


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A tensor to be written: ``shape`` outermost first, ``pieces`` gives its bytes in order."""

    name: str
    type: GGUFType
    shape: tuple[int, ...]
    pieces: Callable[[], Iterable[bytes | memoryview]]

    @property
    def nbytes(self) -> int:
        """Bytes of its numbers."""
        return self.type.tensor_bytes(self.shape)


def head_bytes(metadata: Mapping[str, Value], tensors: Sequence[Outgoing]) -> bytes:
    """All that stands before the first tensor, filled up to the alignment."""
    head = [MAGIC, struct.pack("<IQQ", VERSION, len(tensors), len(metadata))]
    for key, value in metadata.items():
        head += [text(key), typed(value)]
    offset = 0
    for tensor in tensors:
        dims = tensor.shape[::-1]
        head.append(text(tensor.name))
        head.append(struct.pack(f"<I{len(dims)}Q", len(dims), *dims))
        head.append(struct.pack("<IQ", tensor.type.id, offset))
        offset += padded(tensor.nbytes)
    whole = b"".join(head)
    return whole.ljust(padded(len(whole)), b"\0")


def file_bytes(metadata: Mapping[str, Value], tensors: Sequence[Outgoing]) -> int:
    """How large a file will be."""
    return len(head_bytes(metadata, tensors)) + sum(padded(tensor.nbytes) for tensor in tensors)


def write_gguf(
    stream: BinaryIO,
    metadata: Mapping[str, Value],
    tensors: Sequence[Outgoing],
    done: Callable[[int], None] = lambda nbytes: None,
) -> None:
    """Write a whole file; ``done`` is told the bytes written so far after each piece.

    Raises ValueError for a tensor whose pieces are not as many bytes as its shape needs.
    """
    head = head_bytes(metadata, tensors)
    stream.write(head)
    written = len(head)
    for tensor in tensors:
        begin = written
        for piece in tensor.pieces():
            stream.write(piece)
            written += len(piece)
            done(written)
        if written - begin != tensor.nbytes:
            raise ValueError(f"{tensor.name}: {written - begin} bytes, not {tensor.nbytes}")
        gap = padded(tensor.nbytes) - tensor.nbytes
        stream.write(bytes(gap))
        written += gap
    done(written)


def padded(nbytes: int) -> int:
    """The next multiple of the alignment."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def text(value: str) -> bytes:
    """A string: its length, and UTF-8."""
    encoded = value.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(encoded)) + encoded


def typed(value: Value) -> bytes:
    """A value behind the id of its type; whole numbers of a list are signed, alone they are not."""
    if isinstance(value, list):
        kind = type_of(value[0]) if value else STRING
        kind = I32 if kind == U32 else kind
        items = b"".join(packed(kind, item) for item in value)
        return struct.pack("<IIQ", ARRAY, kind, len(value)) + items
    kind = type_of(value)
    return struct.pack("<I", kind) + packed(kind, value)


def type_of(value: str | bool | int | float) -> int:
    """The id of the type that a value is written as."""
    if isinstance(value, str):
        return STRING
    if isinstance(value, bool):
        return BOOL
    if isinstance(value, int):
        return U32 if value < 2**32 else U64
    return F32


def packed(kind: int, value: str | bool | int | float) -> bytes:
    """A value alone."""
    return text(value) if isinstance(value, str) else struct.pack(PACKED[kind], value)
