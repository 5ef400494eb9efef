"""The heads of GGUF files: their metadata and the table of their tensors, without the data.

Layout: `GGUF`, u32 version, u64 number of tensors, u64 number of metadata, the metadata (name, u32
type, value), the tensors (name, u32 number of dims, u64 dims with the innermost first, u32 type,
u64 offset), padding, the data. All numbers are little endian.
Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import mmap
import re
import struct
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from helexa.engine.checkpoint.files import reading
from helexa.engine.checkpoint.gguf_types import BY_ID, READABLE, type_name
from helexa.engine.checkpoint.gguf_values import FETCH_AGAIN, Cursor
from helexa.engine.checkpoint.table import TensorInfo, check_ranges
from helexa.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MAX_ENTRIES = 2**20
"""Tensors, or metadata: nobody has nearly as many."""
MAX_DIMS = 4
MAX_PARTS = 1000
PART = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.S | re.I)


@dataclass(frozen=True, slots=True)
class GGUFHead:
    """What one file, or all parts of a split one, says before its data.

    ``metadata`` is that of the first part; ``tensors`` have the file's names and the logical shape,
    outermost dim first; the dtype is the type's name (`F32`, `Q4_K`).
    """

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]

    @property
    def files(self) -> tuple[str, ...]:
        """The names of the parts."""
        return tuple(sorted({info.file for info in self.tensors.values()} | {self.path.name}))


def read_gguf(path: Path) -> GGUFHead:
    """Read the head of a file, and of the other parts if it is split.

    Raises CheckpointError naming the file that is missing, damaged, or no GGUF.
    """
    one = read_part(path)
    count = one.metadata.get("split.count", 1)
    if not isinstance(count, int) or count <= 1:
        return one
    files = parts_of(path.name)
    if len(files) != count:
        raise CheckpointError(
            f"{path} is one of {count} parts, but not named as one",
            hint=f"name the parts X-00001-of-{count:05}.gguf and so on",
        )
    found = {path.name: one}
    for file in files:
        part = path.parent / file
        with reading(part):
            present = part.is_file()
        if not present:
            raise CheckpointError(
                f"part {file} is missing from {path.parent}",
                hint="the download is incomplete; fetch the model again",
            )
        if file not in found:
            found[file] = read_part(part)
    return joined([found[file] for file in files])


def parts_of(file: str) -> list[str]:
    """The names of all parts of a split file, of which ``file`` is one; else just that."""
    match = PART.fullmatch(file)
    count = int(match["count"]) if match else 1
    if match is None or not 1 < count <= MAX_PARTS:
        return [file]
    ending = file[len(file) - len(".gguf") :]
    return [f"{match['stem']}-{at:05}-of-{count:05}{ending}" for at in range(1, count + 1)]


def joined(parts: list[GGUFHead]) -> GGUFHead:
    """All parts as one. Raises CheckpointError where they do not belong together."""
    tensors: dict[str, TensorInfo] = {}
    for at, part in enumerate(parts):
        same = part.metadata.get("split.count") == len(parts)
        if not same or part.metadata.get("split.no") != at or part.tensors.keys() & tensors.keys():
            raise CheckpointError(
                f"{part.path} is not part {at + 1} of {len(parts)} of this model",
                hint="the parts do not belong together; fetch the model again",
            )
        tensors |= part.tensors
    wanted = parts[0].metadata.get("split.tensors.count", len(tensors))
    if wanted != len(tensors):
        raise CheckpointError(
            f"{parts[0].path} announces {wanted} tensors, its {len(parts)} parts have "
            f"{len(tensors)}",
            hint=FETCH_AGAIN,
        )
    return GGUFHead(parts[0].path, parts[0].metadata, tensors)


def read_part(path: Path) -> GGUFHead:
    """Read the head of one file."""
    with reading(path), path.open("rb") as stream:
        if not stream.read(1):
            raise CheckpointError(f"{path} is empty", hint=FETCH_AGAIN)
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return read_head(Cursor(data, path))


def read_head(cursor: Cursor) -> GGUFHead:
    """The file that ``cursor`` stands at the beginning of."""
    check_version(cursor)
    tensors, pairs = cursor.u64(), cursor.u64()
    if max(tensors, pairs) > MAX_ENTRIES:
        raise cursor.damaged(f"{tensors} tensors and {pairs} metadata")
    metadata: dict[str, Any] = {}
    for _ in range(pairs):
        key = cursor.name()
        if key in metadata:
            raise cursor.damaged(f"{key!r} occurs twice")
        metadata[key] = cursor.value(cursor.u32())
    entries = [read_entry(cursor) for _ in range(tensors)]
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or not 1 <= alignment <= 2**20 or alignment % 8:
        raise cursor.damaged(f"`general.alignment` is {alignment!r}")
    base = -(-cursor.at // alignment) * alignment
    return GGUFHead(cursor.path, metadata, place(cursor, entries, base, alignment))


def check_version(cursor: Cursor) -> None:
    """Raise CheckpointError unless this is a GGUF file of a version that can be read."""
    if cursor.data[: len(MAGIC)] != MAGIC:
        raise CheckpointError(
            f"{cursor.path} is not a GGUF file: it begins with {cursor.data[:4]!r}",
            hint="fetch it again, or point to another file",
        )
    cursor.skip(len(MAGIC))
    version = cursor.u32()
    if version in VERSIONS:
        return
    swapped = struct.unpack(">I", struct.pack("<I", version))[0]
    what = "is big endian" if swapped in (1, *VERSIONS) else f"has GGUF version {version}"
    raise CheckpointError(
        f"{cursor.path} {what}", hint="supported: versions 2 and 3, little endian; convert it again"
    )


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor as the table has it; ``shape`` is turned round already."""

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int


def read_entry(cursor: Cursor) -> Entry:
    name = cursor.name()
    count = cursor.u32()
    if count > MAX_DIMS:
        raise cursor.damaged(f"tensor {name!r} has {count} dims")
    dims = [cursor.u64() for _ in range(count)]
    if math.prod(dims) >= 2**63 or max(dims, default=0) >= 2**63:
        raise cursor.damaged(f"tensor {name!r} has dims {dims}")
    return Entry(name, tuple(reversed(dims)), cursor.u32(), cursor.u64())


def place(cursor: Cursor, entries: list[Entry], base: int, alignment: int) -> dict[str, TensorInfo]:
    """The table of a file, every range checked; a type of unknown size ends where the next begins.

    Whether a tensor's type can be read is for whoever needs the tensor to say.
    """
    starts = sorted({entry.offset for entry in entries} | {max(0, cursor.size - base)})
    following = dict(pairwise(starts))
    table: dict[str, TensorInfo] = {}
    for entry in entries:
        if entry.name in table:
            raise cursor.damaged(f"tensor {entry.name!r} occurs twice")
        if entry.offset % alignment:
            raise cursor.damaged(f"tensor {entry.name!r} is not aligned to {alignment} bytes")
        columns = entry.shape[-1] if entry.shape else 1
        known = BY_ID.get(entry.type)
        if known is None:
            nbytes = max(0, following.get(entry.offset, entry.offset) - entry.offset)
        elif columns % known.elements:
            raise cursor.damaged(
                f"tensor {entry.name!r} has rows of {columns}, {known.name} takes multiples of "
                f"{known.elements}"
            )
        else:
            nbytes = known.tensor_bytes(entry.shape)
        start = base + entry.offset
        table[entry.name] = TensorInfo(
            entry.name, entry.shape, type_name(entry.type), nbytes, cursor.path.name, start
        )
    check_ranges(cursor.path, table.values(), cursor.size)
    return table


def check_types(file: GGUFHead) -> None:
    """Raise CheckpointError naming the first tensor whose type cannot be read."""
    for info in file.tensors.values():
        if info.dtype not in READABLE:
            raise CheckpointError(
                f"tensor {info.name!r} in {file.path.parent / info.file} has type {info.dtype}",
                hint=f"supported: {', '.join(READABLE)}",
            )
