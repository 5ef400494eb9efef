"""Products of float32 activations with 16-bit matrices that are laid out in panels, on a CPU.

A panel holds 64 rows of a matrix [N, K], transposed: panels are [N/64, K, 64]. One row of
activations times a panel is then a weighted sum of K rows of 64 values, which is what
`torch.embedding_bag` computes: on x86 through code generated for it that reads its table ahead of
time, and so gets more of the memory's bandwidth than a matrix product of one row does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from helexa.engine.kernels.matvec import row_scale

if TYPE_CHECKING:
    from torch import Tensor

    from helexa.engine.kernels.matvec import Bags, Scratch

PANEL = 64
TILE_PANELS = 4


def pack(matrix: Tensor, out: Tensor) -> None:
    """Write a matrix [N, K], N a multiple of 64, into panels [N/64, K, 64] of any plain format."""
    out.copy_(matrix.view(len(out), PANEL, -1).transpose(1, 2))


def unpack(panels: Tensor) -> Tensor:
    """The matrix [N, K] that panels [N/64, K, 64] hold."""
    return panels.transpose(1, 2).flatten(0, 1)


def panel_rows(panels: Tensor, ids: Tensor) -> Tensor:
    """The rows ``ids`` [T] of the matrix in panels [N/64, K, 64]: [T, K]."""
    return panels[ids // PANEL, :, ids % PANEL]


def summed_product(x: Tensor, panels: Tensor, bags: Bags) -> Tensor:
    """x @ Wᵀ for one row, by one weighted sum per panel.

    x [1, K] float32, panels [N/64, K, 64], bags of that shape and format → [1, N] float32. Inputs
    and outputs are rounded to the panels' format on the way; the row is scaled to length 1, so
    that float16 does not overflow.
    """
    scale = row_scale(x)
    bags.factors.copy_(x / scale)
    sums = torch.embedding_bag(
        panels.flatten(0, 1), bags.places, bags.starts, mode=0, per_sample_weights=bags.flat
    )
    return sums[0].view(1, -1) * scale


def expanded_panel_product(x: Tensor, panels: Tensor, scratch: Scratch) -> Tensor:
    """x @ Wᵀ for many rows, by expanding a few panels at a time to float32.

    x [T, K] float32, panels [N/64, K, 64] → [T, N] float32.
    """
    count, columns, _ = panels.shape
    out = x.new_empty(len(x), count * PANEL)
    for first in range(0, count, TILE_PANELS):
        part = panels[first : first + TILE_PANELS]
        tile = scratch.tile(columns, len(part) * PANEL)
        tile.view(columns, len(part), PANEL).copy_(part.transpose(0, 1))
        start = first * PANEL
        torch.mm(x, tile, out=out[:, start : start + len(part) * PANEL])
    return out
