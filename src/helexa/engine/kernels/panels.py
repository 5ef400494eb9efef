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

    from helexa.engine.kernels.matvec import Scratch

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


def summed_product(x: Tensor, panels: Tensor, scratch: Scratch) -> Tensor:
    """x @ Wᵀ for few rows, by one weighted sum per row and panel.

    x [T, K] float32, panels [N/64, K, 64] → [T, N] float32; inputs and outputs are rounded to the
    panels' format on the way, scaled per row so that float16 does not overflow.
    """
    count, columns, _ = panels.shape
    table = panels.view(count * columns, PANEL)
    places, starts = scratch.bags(count, columns)
    scale = row_scale(x)
    factors = torch.empty((count, columns), dtype=panels.dtype)
    rows = [
        torch.embedding_bag(
            table, places, starts, mode=0, per_sample_weights=factors.copy_(row).view(-1)
        )[0].view(1, -1)
        for row in (x / scale).to(panels.dtype)
    ]
    return (rows[0] if len(rows) == 1 else torch.cat(rows)) * scale


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
