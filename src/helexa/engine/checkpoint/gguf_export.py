"""A plain checkpoint's tensors on their way into a GGUF file, quantised as they are written."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch

from helexa.engine.checkpoint.gguf_tensors import Converted, converted_tensors
from helexa.engine.checkpoint.gguf_types import READABLE
from helexa.engine.checkpoint.gguf_writer import Outgoing
from helexa.engine.quant.blocks.types import BLOCK_TYPES
from helexa.engine.quant.insitu import fitting
from helexa.engine.quant.names import PLAIN
from helexa.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor

    from helexa.engine.checkpoint.checkpoint import Checkpoint
    from helexa.engine.quant.blocks.types import BlockType

PIECE_ELEMENTS = 2**18
TORCH = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


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


def encoded(
    values: Tensor, type: BlockType | None, dtype: torch.dtype | None
) -> Iterable[memoryview]:
    """The bytes of a tensor in a block format or a plain one, some rows at a time, in order."""
    matrix = values.reshape(-1, values.shape[-1]) if values.dim() else values.view(1, 1)
    step = max(1, PIECE_ELEMENTS // matrix.shape[1])

    def encode(start: int) -> memoryview:
        piece = matrix[start : start + step]
        if type is None:
            plain = piece.to(dtype).contiguous()
            if dtype == torch.float16 and plain.isinf().any():
                raise CheckpointError(
                    "a weight is too large for float16", hint="write bf16, or fewer bits"
                )
            data = plain.view(torch.uint8)
        else:
            data = type.rows(piece.float().contiguous())
        return memoryview(data.flatten().numpy().data)

    starts = range(0, len(matrix), step)
    if len(starts) == 1:
        yield encode(0)
        return
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        yield from pool.map(encode, starts)
