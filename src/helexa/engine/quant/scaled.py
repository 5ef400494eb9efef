"""FP8 weights with a scale per block, row or matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from helexa.engine.kernels.fp8 import REBIASED, has_nan, shifted
from helexa.engine.kernels.matvec import TILE_BYTES, Scratch, row_scale, tiny
from helexa.engine.kernels.narrow_product import tile_product
from helexa.engine.kernels.stored_matrix import StoredMatrix
from helexa.engine.memory import SMALL_MATRIX
from helexa.engine.quant.on_device import for_device
from helexa.engine.quant.stack import stack
from helexa.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from helexa.engine.numerics import Numerics
    from helexa.engine.quant.weight import Weight

LEAST_ROWS = 16
"""Fewer rows of a block are not worth multiplying a row of activations by its scales."""
GPU_TILE = 2**28
"""Bytes that are expanded at once on a GPU."""


@dataclass(frozen=True, slots=True, eq=False)
class ScaledWeight:
    """A float8 matrix [N, K] times scales [⌈N/rows⌉, ⌈K/columns⌉], ``block`` being (rows, columns).

    ``kernels`` False leaves widening to torch's conversion; ``one_row``: a single row of
    activations is multiplied in float16; ``bfloat16``: many rows are in that.
    """

    tensor: Tensor
    scale: Tensor
    block: tuple[int, int]
    scratch: Scratch
    kernels: bool
    one_row: bool
    bfloat16: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.tensor.shape
        return rows, columns

    @property
    def nbytes(self) -> int:
        return self.tensor.nbytes + self.scale.nbytes

    def matrix(self) -> Tensor:
        """The whole matrix [N, K], float32."""
        return self.rows(0, len(self.tensor))

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows start … stop of the matrix, float32."""
        out = torch.empty(stop - start, self.tensor.shape[1], device=self.tensor.device)
        memory = Scratch()  # of its own: others may be multiplying
        for at, end, tile in self.tiles(memory, start, stop):
            out[at - start : end - start] = tile
        return out

    def matmul(self, x: Tensor) -> Tensor:
        """x @ Wᵀ, x [T, K] → [T, N] in x's dtype."""
        if self.one_row and len(x) == 1:
            return self.product_of_one(x)
        tiles = self.tiles(self.scratch, 0, len(self.tensor))
        if not self.kernels:
            out = x.new_empty(len(x), len(self.tensor))
            for start, stop, tile in tiles:
                out[:, start:stop] = F.linear(x, tile.to(x.dtype))
            return out
        rows, product = tile_product(x, bfloat16=self.bfloat16)
        out = x.new_empty(len(rows), len(self.tensor))
        for start, stop, tile in tiles:
            out[:, start:stop] = product(rows, tile.to(x.dtype))
        return out[: len(x)]

    def stored(self) -> StoredMatrix:
        """The matrix for kernels (see `quant.on_device`)."""
        return StoredMatrix(
            "fp8", (self.tensor.view(torch.uint8), self.scale), self.shape, self.block
        )

    def product_of_one(self, x: Tensor) -> Tensor:
        """x @ Wᵀ, x [1, K] float32 → [1, N], in float16; only the row is multiplied by scales.

        As in `kernels.matvec.one_row_product` the row gets length 1, and each row of blocks scales
        of at most 1: what is taken out of them is multiplied to the result.
        """
        (rows, columns), (tall, wide) = self.shape, self.block
        length = row_scale(x)
        if self.scale.shape[1] == 1:  # which the result can be multiplied by
            largest, inputs, together = self.scale, (x / length).half(), rows
        else:
            largest = self.scale.abs().amax(1, keepdim=True) + tiny()  # [R, 1]
            spread = (self.scale / largest).repeat_interleave(wide, 1)[:, :columns]
            inputs, together = (spread * (x / length)).half(), tall
        few = max(1, TILE_BYTES // (4 * columns))
        out = []
        for row, block in zip(inputs, torch.split(self.tensor, together), strict=True):
            out += [F.linear(row, shifted(part)) for part in torch.split(block, few)]
        factor = largest[:, 0].repeat_interleave(tall)[:rows] * (REBIASED * length[0])
        return (torch.cat(out).float() * factor)[None]

    def tiles(self, scratch: Scratch, first: int, last: int) -> Iterator[tuple[int, int, Tensor]]:
        """Rows first … last, a few at a time: start, stop, [n, K] float32.

        On a CPU in the same working memory each time.
        """
        columns = self.tensor.shape[1]
        on_cpu = self.tensor.device.type == "cpu"
        step = max(1, (TILE_BYTES if on_cpu else GPU_TILE) // (4 * columns))
        for start in range(first, last, step):
            stop = min(last, start + step)
            if on_cpu:
                tile = scratch.tile(stop - start, columns)
            else:
                tile = torch.empty((stop - start, columns), device=self.tensor.device)
            part = self.tensor[start:stop]
            quick = self.kernels and on_cpu
            tile.copy_(shifted(part) if quick else part)
            self.scaled(tile, start, stop, REBIASED if quick else 1.0)
            yield start, stop, tile

    def scaled(self, tile: Tensor, start: int, stop: int, factor: float) -> None:
        """Multiply rows start … stop by their scales and a power of two, in place."""
        tall, wide = self.block
        rows = torch.arange(start, stop, device=tile.device) // tall
        scale = self.scale.index_select(0, rows) * factor  # [n, C]
        columns = tile.shape[1]
        if scale.shape[1] * wide == columns:
            tile.view(len(tile), -1, wide).mul_(scale[:, :, None])
        else:
            tile.mul_(scale.repeat_interleave(wide, 1)[:, :columns])


@dataclass(frozen=True, slots=True, eq=False)
class Scaled:
    """A stored float8 matrix, its scales and the block that each is for; ``name`` in messages."""

    name: str
    tensor: Tensor
    scale: Tensor
    block: tuple[int, int]


def scaled_weight(parts: Sequence[Scaled], numerics: Numerics) -> Weight:
    """Stored matrices [N_i, K] as one weight; those whose blocks do not fit stay by themselves.

    Raises CheckpointError for a matrix that is not of numbers.
    """
    joined: list[list[Scaled]] = []
    for part in parts:
        if has_nan(part.tensor) or part.scale.isnan().any():
            raise CheckpointError(
                f"tensor {part.name!r} holds NaN", hint="fetch the model again, or another one"
            )
        if joined and fits_below(part, joined[-1][-1]):
            joined[-1].append(part)
        else:
            joined.append([part])
    device, plain = numerics.device, numerics.plain
    quick = plain.kernels and plain.dtype.itemsize == 2 and device.type == "cpu"
    return stack(
        [
            for_device(
                ScaledWeight(
                    joint([part.tensor for part in group]).to(device),
                    torch.cat([part.scale.float() for part in group]).to(device),
                    group[0].block,
                    plain.scratch,
                    plain.kernels,
                    quick and suits_one_row(group[0]),
                    plain.in_bfloat16
                    and plain.together * sum(part.tensor.numel() for part in group) >= SMALL_MATRIX,
                ),
                plain,
            )
            for group in joined
        ]
    )


def suits_one_row(part: Scaled) -> bool:
    """Whether a row of activations is multiplied by scales few times, or never."""
    return part.scale.shape[1] == 1 or part.block[0] >= LEAST_ROWS


def fits_below(part: Scaled, above: Scaled) -> bool:
    return part.block == above.block and len(above.tensor) % above.block[0] == 0


def joint(parts: Sequence[Tensor]) -> Tensor:
    """float8 matrices one below the other, copied as bytes; a single one is shared."""
    if len(parts) == 1:
        return parts[0]
    return torch.cat([part.view(torch.uint8) for part in parts]).view(parts[0].dtype)
