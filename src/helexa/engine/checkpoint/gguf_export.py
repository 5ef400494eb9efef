"""A plain checkpoint's tensors on their way into a GGUF file, quantised as they are written."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from helexa.engine.checkpoint.encoding import TORCH, encoded
from helexa.engine.checkpoint.gguf_tensors import Converted, converted_tensors
from helexa.engine.checkpoint.gguf_types import READABLE
from helexa.engine.checkpoint.gguf_writer import Outgoing, Value, file_bytes, write_gguf
from helexa.engine.quant.blocks.types import BLOCK_TYPES
from helexa.engine.quant.insitu import fallback, fitting
from helexa.engine.quant.names import PLAIN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from helexa.engine.checkpoint.checkpoint import Checkpoint


@dataclass(frozen=True, slots=True)
class FileExport:
    """A GGUF file to be written.

    ``fallbacks`` says how many matrices get which other formats than was asked for.
    """

    metadata: Mapping[str, Value]
    tensors: list[Outgoing]
    fallbacks: Mapping[str, int]

    @classmethod
    def of(cls, checkpoint: Checkpoint, format: str, metadata: Mapping[str, Value]) -> FileExport:
        """A plain checkpoint with its linear layers in ``format``."""
        matrices = (t.shape for t in converted_tensors(checkpoint) if t.kind == "linear")
        fallbacks = count_fallbacks(format, matrices)
        return cls(metadata, outgoing_tensors(checkpoint, format), fallbacks)

    @property
    def formats(self) -> list[str]:
        """That of each tensor."""
        return [tensor.type.name for tensor in self.tensors]

    @property
    def parameters(self) -> int:
        """Numbers in all."""
        return sum(t.nbytes * t.type.elements // t.type.nbytes for t in self.tensors)

    @property
    def nbytes(self) -> int:
        """How large the file will be."""
        return file_bytes(self.metadata, self.tensors)

    def write(self, path: Path, done: Callable[[int], None]) -> None:
        """Write it; ``done`` is told the bytes written so far."""
        with path.open("xb") as stream:
            write_gguf(stream, self.metadata, self.tensors, done)


def count_fallbacks(format: str, shapes: Iterable[tuple[int, ...]]) -> Counter[str]:
    """How many matrices [N, K], of stacks [E, N, K] all, get other formats than ``format``."""
    found: Counter[str] = Counter()
    for shape in shapes if format in BLOCK_TYPES else ():
        other = fallback(BLOCK_TYPES[format], shape[-1])
        if other is not None:
            found[other] += math.prod(shape[:-2])
    return found


def outgoing_tensors(checkpoint: Checkpoint, format: str) -> list[Outgoing]:
    """All tensors of a file: linear layers in ``format``, the embedding as it is stored."""
    embedding = next(name for name in checkpoint.names() if name.endswith("embed_tokens.weight"))
    table = checkpoint.info(embedding).dtype
    return [outgoing(tensor, table, format) for tensor in converted_tensors(checkpoint)]


def outgoing(tensor: Converted, table: str, format: str) -> Outgoing:
    """A tensor with the format it gets: ``table`` if it is the embedding."""
    name = format
    if tensor.kind == "small":
        name = "F32"
    elif tensor.kind == "table":
        name = table
    elif format not in PLAIN:
        fits = fitting(BLOCK_TYPES[format], tensor.shape[-1])
        name = fits.name if fits is not None else table
    type = READABLE[name]

    def pieces() -> Iterator[memoryview]:
        for part in tensor.parts:
            yield from encoded(part(), BLOCK_TYPES.get(name), TORCH.get(name))

    return Outgoing(tensor.name, type, tensor.shape, pieces)
