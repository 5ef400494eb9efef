"""Writing folders of safetensors: one file, or shards with their index, as their bytes are made.

Source: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from helexa.engine.checkpoint.table import ITEM_BYTES, LENGTH_BYTES, MAX_HEADER_BYTES, SINGLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

SHARD_BYTES = 5 * 10**9
"""How large a file may get, but for a single tensor that is larger."""
ALIGNMENT = 64
"""Where in a file the first tensor begins: at a multiple of what processors like."""
WRITER = "helexa quantize"
METADATA = {"format": "pt", "writer": WRITER}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor to be written: ``dtype`` as files name it; ``pieces`` gives its bytes in order."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    pieces: Callable[[], Iterable[bytes | memoryview]]


@dataclass(frozen=True, slots=True)
class Shard:
    """A file of weights and its tensors, in the order in which they are written."""

    file: str
    tensors: tuple[StoredTensor, ...]

    @property
    def head(self) -> bytes:
        """All that stands before the first tensor."""
        header: dict[str, Any] = {"__metadata__": METADATA}
        end = 0
        for tensor in self.tensors:
            start, end = end, end + tensor.nbytes
            header[tensor.name] = {
                "dtype": tensor.dtype,
                "shape": tensor.shape,
                "data_offsets": [start, end],
            }
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-(LENGTH_BYTES + len(text)) % ALIGNMENT)
        return struct.pack("<Q", len(text)) + text

    @property
    def nbytes(self) -> int:
        """Bytes of the file."""
        return len(self.head) + sum(tensor.nbytes for tensor in self.tensors)

    def write(self, folder: Path, done: Callable[[int], None]) -> None:
        """Write the file; ``done`` is told the bytes of each piece.

        Raises ValueError for a tensor whose pieces are not as many bytes as its shape needs.
        """
        with (folder / self.file).open("xb") as stream:
            done(stream.write(self.head))
            for tensor in self.tensors:
                written = 0
                for piece in tensor.pieces():
                    written += stream.write(piece)
                    done(len(piece))
                if written != tensor.nbytes:
                    raise ValueError(f"{tensor.name}: {written} bytes, not {tensor.nbytes}")


def sharded(tensors: Sequence[StoredTensor], limit: int = SHARD_BYTES) -> list[Shard]:
    """The files that tensors go to, in their order, each of at most ``limit`` bytes of them."""
    groups: list[list[StoredTensor]] = [[]]
    room = limit
    for tensor in tensors:
        if groups[-1] and tensor.nbytes > room:
            groups.append([])
            room = limit
        groups[-1].append(tensor)
        room -= tensor.nbytes
    count = len(groups)
    names = [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]
    files = names if count > 1 else [SINGLE]
    return [Shard(file, aligned(group)) for file, group in zip(files, groups, strict=True)]


def aligned(tensors: Sequence[StoredTensor]) -> tuple[StoredTensor, ...]:
    """Larger elements first: so each tensor begins at a multiple of its elements' size."""
    return tuple(sorted(tensors, key=lambda tensor: -ITEM_BYTES.get(tensor.dtype, 1)))


def index_of(shards: Sequence[Shard]) -> str | None:
    """The text of the index of several files; None for one."""
    if len(shards) == 1:
        return None
    tensors = [(tensor, shard.file) for shard in shards for tensor in shard.tensors]
    index = {
        "metadata": {"total_size": sum(tensor.nbytes for tensor, _ in tensors)},
        "weight_map": {tensor.name: file for tensor, file in sorted(tensors, key=by_name)},
    }
    return json.dumps(index, indent=2)


def by_name(item: tuple[StoredTensor, str]) -> str:
    return item[0].name


def is_ours(path: Path) -> bool:
    """Whether a file of weights was written here; raises OSError if it cannot be read."""
    with path.open("rb") as stream:
        start = stream.read(LENGTH_BYTES)
        length = struct.unpack("<Q", start)[0] if len(start) == LENGTH_BYTES else 0
        head = stream.read(min(length, MAX_HEADER_BYTES))
    try:
        metadata = json.loads(head)["__metadata__"]
        return bool(metadata["writer"] == WRITER)
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
