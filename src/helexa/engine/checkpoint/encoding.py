"""A tensor's bytes in another format, made a few rows at a time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch

from helexa.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from helexa.engine.quant.blocks.types import BlockType

PIECE_ELEMENTS = 2**18
TORCH = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


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
