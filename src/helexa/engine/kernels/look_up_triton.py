"""Rows of a matrix that stays in the blocks it is stored in, on a GPU as one kernel.

Needs triton, and with TRITON_INTERPRET=1 set before the first import runs on CPU tensors as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from helexa.engine.kernels.launching import FUSING
from helexa.engine.kernels.products_triton import DECODERS, layout_of, steps_of
from helexa.engine.kernels.tiles_triton import inputs_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from helexa.engine.kernels.stored_matrix import StoredMatrix


def look_up(ids: Tensor, matrix: StoredMatrix, dtype: torch.dtype) -> Tensor:
    """``blocks.matrix(table[ids]).to(dtype)``: ids [T] int64, matrix [N, K] → [T, K].

    With torch, expanding a row of Q6_K takes some seventeen operators.
    """
    layout = layout_of(matrix, 1)._replace(columns=1)
    out = ids.new_empty((len(ids), layout.inputs), dtype=dtype)
    decode = DECODERS[matrix.decoder].function
    grid = len(ids), steps_of(layout)
    look_up_kernel[grid](ids, out, matrix.tensors, decode, layout, num_warps=1, **FUSING)
    return out


@triton.jit
def look_up_kernel(
    ids: tl.tensor,
    out: tl.tensor,
    matrix: tl.tensor,
    decode: tl.constexpr,
    layout: tl.constexpr,
) -> None:
    """One step of a row: a tile has one output, so its number is the row's."""
    parts: tl.constexpr = layout.parts
    token = tl.program_id(0).to(tl.int64)
    step = tl.program_id(1)
    row = tl.load(ids + token)
    for part in tl.static_range(parts):
        weights = decode(matrix, row, step, part, layout)  # [1, depth]
        place = inputs_of(step, part, layout)
        tl.store(
            out + token * layout.inputs + place[None, :],
            weights.to(out.dtype.element_ty),
            mask=(place < layout.inputs)[None, :],
        )
