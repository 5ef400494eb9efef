"""Reading the values at the head of a GGUF file from bytes that may be anything.

A string is a u64 length and UTF-8; an array is the u32 type of its items, a u64 count, the items.
Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import struct
import sys
from array import array
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from helexa.errors import CheckpointError

if TYPE_CHECKING:
    from mmap import mmap
    from pathlib import Path

FETCH_AGAIN = "the file is damaged or incomplete; fetch it again"
SCALARS = MappingProxyType(
    {
        0: struct.Struct("<B"), 1: struct.Struct("<b"), 2: struct.Struct("<H"),
        3: struct.Struct("<h"), 4: struct.Struct("<I"), 5: struct.Struct("<i"),
        6: struct.Struct("<f"), 7: struct.Struct("<?"), 10: struct.Struct("<Q"),
        11: struct.Struct("<q"), 12: struct.Struct("<d"),
    }
)  # fmt: skip
"""Numbers and truth values, by the id of their type."""
STRING, ARRAY = 8, 9
LONG = struct.Struct("<Q")
MAX_NAME_BYTES = 65535
MAX_ITEMS = 2**24
"""Items of an array: the largest vocabularies have a 64th of that."""
MAX_DEPTH = 4


class Cursor:
    """A place in a mapped file, moved by what is read there.

    Every read raises CheckpointError naming the file where its bytes end before the value does, so
    nothing is ever allocated for what is not there.
    """

    def __init__(self, data: mmap | bytes, path: Path) -> None:
        self.data = data
        self.path = path
        self.size = len(data)
        self.at = 0

    def damaged(self, why: str) -> CheckpointError:
        return CheckpointError(f"{self.path} is not a whole GGUF file: {why}", hint=FETCH_AGAIN)

    def skip(self, nbytes: int) -> int:
        """Move on by ``nbytes``; returns where they begin."""
        if nbytes > self.size - self.at:
            raise self.damaged(f"it ends at byte {self.size}, within a value")
        start = self.at
        self.at += nbytes
        return start

    def number(self, kind: struct.Struct) -> Any:
        return kind.unpack_from(self.data, self.skip(kind.size))[0]

    def u32(self) -> int:
        value: int = self.number(SCALARS[4])
        return value

    def u64(self) -> int:
        value: int = self.number(LONG)
        return value

    def name(self) -> str:
        """A key or the name of a tensor: short, and valid UTF-8."""
        length = self.u64()
        if length > MAX_NAME_BYTES:
            raise self.damaged(f"a name of {length} bytes at byte {self.at}")
        start = self.skip(length)
        try:
            return self.data[start : self.at].decode("utf-8")
        except UnicodeDecodeError:
            raise self.damaged(f"the name at byte {start} is not UTF-8") from None

    def text(self) -> str:
        """A string; what is not UTF-8 in it becomes U+FFFD."""
        start = self.skip(self.u64())
        return self.data[start : self.at].decode("utf-8", "replace")

    def value(self, type: int, depth: int = 0) -> Any:
        """A value of the type with this id: a number, bool, string or list."""
        if type == STRING:
            return self.text()
        if type == ARRAY:
            return self.items(depth + 1)
        if type not in SCALARS:
            raise self.damaged(f"a value of unknown type {type} at byte {self.at}")
        return self.number(SCALARS[type])

    def items(self, depth: int) -> list[Any]:
        """An array; arrays in arrays only as deep as anybody nests them."""
        type, count = self.u32(), self.u64()
        if count > MAX_ITEMS or depth > MAX_DEPTH:
            raise self.damaged(f"an array of {count} items, {depth} deep, at byte {self.at}")
        if type == STRING:
            return self.texts(count)
        if type in SCALARS:
            return self.numbers(SCALARS[type], count)
        if count * 4 > self.size - self.at:
            raise self.damaged(f"an array of {count} items at byte {self.at}")
        return [self.value(type, depth) for _ in range(count)]

    def numbers(self, kind: struct.Struct, count: int) -> list[Any]:
        start = self.skip(count * kind.size)
        code = kind.format[1:]
        if code == "?" or sys.byteorder != "little" or array(code).itemsize != kind.size:
            return [item for (item,) in kind.iter_unpack(self.data[start : self.at])]
        found = array(code)
        found.frombytes(self.data[start : self.at])
        return found.tolist()

    def texts(self, count: int) -> list[str]:
        """Many strings: the loop that a vocabulary goes through, hence without calls of ours."""
        if count * LONG.size > self.size - self.at:
            raise self.damaged(f"an array of {count} strings at byte {self.at}")
        data, at, end, read = self.data, self.at, self.size, LONG.unpack_from
        found = []
        for _ in range(count):
            start = at + 8
            if start > end:
                break
            at = start + read(data, at)[0]
            if at > end:
                break
            found.append(data[start:at].decode("utf-8", "replace"))
        if len(found) < count:
            raise self.damaged(f"it ends at byte {end}, within an array of {count} strings")
        self.at = at
        return found
