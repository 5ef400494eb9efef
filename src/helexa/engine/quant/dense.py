"""Weights that are plain matrices."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from helexa.engine.kernels.few_rows import FewRows
from helexa.engine.kernels.matvec import Scratch, expanded_product, one_row_product
from helexa.engine.kernels.narrow_product import (
    in_order,
    many_rows_product,
    reorder,
    reordered_product,
)
from helexa.engine.kernels.onednn_order import is_paired, padded_shape
from helexa.engine.kernels.packed import can_pack, pack, packed_product, unpack
from helexa.engine.kernels.streamed import streamed_product
from helexa.engine.kernels.wide_product import padded, wide_product
from helexa.engine.memory import SMALL_MATRIX
from helexa.engine.quant.large_pages import large_pages
from helexa.engine.quant.paired import OrderedWeight, PairedWeight, ordered_weight, paired_weight
from helexa.engine.quant.weight import Recipe, Traced
from helexa.engine.quant.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from helexa.engine.kernels.compiled import Compiler
    from helexa.engine.kernels.narrow_product import Reordered
    from helexa.engine.kernels.packed import Packed
    from helexa.engine.quant.weight import Weight

FLOAT16_MAX = 65504.0
FLOAT16_MIN_SCALE = 2.0**-10
"""Below this largest value, what float16 rounds away (at most 2⁻²⁵) would begin to count."""
PIECE_ELEMENTS = 2**23
"""A matrix is packed in pieces of at most so many numbers, each by way of a copy.

FBGEMM takes twice as long for each number of pieces that are four times as large.
"""


@dataclass(frozen=True, slots=True, eq=False)
class DenseWeight:
    """A matrix [N, K] multiplied by one operator in its own format."""

    tensor: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.tensor.shape
        return rows, columns

    @property
    def nbytes(self) -> int:
        return self.tensor.nbytes

    def matrix(self) -> Tensor:
        """The whole matrix [N, K]."""
        return self.tensor

    def matmul(self, x: Tensor) -> Tensor:
        """x @ Wᵀ, x [T, K] → [T, N] in x's dtype."""
        return F.linear(x.to(self.tensor.dtype), self.tensor).to(x.dtype)


@dataclass(frozen=True, slots=True, eq=False)
class FloatWeight(DenseWeight):
    """A float32 matrix [N, K] on a CPU."""

    def matmul(self, x: Tensor) -> Tensor:
        """x @ Wᵀ, x [T, K] → [T, N] in x's dtype."""
        return wide_product(x.to(self.tensor.dtype), self.tensor).to(x.dtype)

    @property
    def traced(self) -> Traced:
        """For a compiler (see `quant.weight`)."""
        return traced_matrix(self.tensor)


@dataclass(frozen=True, slots=True, eq=False)
class HalfWeight(DenseWeight):
    """A 16-bit matrix [N, K] on a CPU, for float32 activations.

    One row of a large matrix costs its bytes, so it is multiplied as it is; more rows cost
    arithmetic, which CPUs do best in float32, so the matrix is expanded tile by tile.
    """

    scratch: Scratch
    one_row: bool

    def matmul(self, x: Tensor) -> Tensor:
        """x @ Wᵀ, x [T, K] float32 → [T, N] float32."""
        if len(x) == 1 and self.one_row:
            return one_row_product(x, self.tensor)
        return expanded_product(x, self.tensor, self.scratch)


@dataclass(frozen=True, slots=True, eq=False)
class StreamedWeight(DenseWeight):
    """A 16-bit matrix [N, K] on a CPU that compiled kernels read for ``few`` rows.

    More are multiplied in ``bfloat16``, or in float32.
    """

    scratch: Scratch
    traced: Traced
    few: FewRows
    bfloat16: bool

    def matmul(self, x: Tensor) -> Tensor:
        """x @ Wᵀ, x [T, K] float32 → [T, N] float32."""
        if len(x) <= self.few.most:
            return self.few(x)[0]
        if self.bfloat16:
            return many_rows_product(x, self.tensor)
        return expanded_product(x, self.tensor, self.scratch)


@dataclass(frozen=True, slots=True, eq=False)
class PackedWeight:
    """A float16 matrix [N, K] in a layout of its own (see `kernels.packed`), in pieces of rows."""

    pieces: tuple[Packed, ...]
    shape: tuple[int, int]

    @property
    def nbytes(self) -> int:
        rows, columns = self.shape
        return 2 * rows * columns

    def matrix(self) -> Tensor:
        """The whole matrix [N, K], copied out, float32."""
        return torch.cat([unpack(piece) for piece in self.pieces])

    def matmul(self, x: Tensor) -> Tensor:
        """x @ Wᵀ, x [T, K] float32 → [T, N] float32."""
        if len(self.pieces) == 1:
            return packed_product(x, self.pieces[0])
        return torch.cat([packed_product(x, piece) for piece in self.pieces], -1)


@dataclass(frozen=True, slots=True, eq=False)
class ReorderedWeight:
    """A bfloat16 matrix [N, K] in oneDNN's order (see `kernels.narrow_product`), in pieces of rows.

    Activations and results are rounded to bfloat16, one row like many.
    """

    pieces: tuple[tuple[int, Reordered], ...]
    shape: tuple[int, int]

    @property
    def nbytes(self) -> int:
        rows, columns = self.shape
        return 2 * rows * columns

    def matrix(self) -> Tensor:
        """The whole matrix [N, K], copied out, bfloat16."""
        return torch.cat([in_order(piece) for _, piece in self.pieces])

    def matmul(self, x: Tensor) -> Tensor:
        """x @ Wᵀ, x [T, K] float32 → [T, N] float32."""
        rounded = padded(x, torch.bfloat16)
        if len(self.pieces) == 1:
            return reordered_product(rounded, self.pieces[0][1])[: len(x)].float()
        out = x.new_empty(len(rounded), self.shape[0])
        for first, piece in self.pieces:
            part = reordered_product(rounded, piece)
            out[:, first : first + part.shape[1]] = part
        return out[: len(x)]


@dataclass(frozen=True, slots=True)
class DenseFormat:
    """Keeps weights as plain matrices of ``dtype`` on ``device``.

    On a CPU, either 16-bit format stands for float16 wherever that holds a matrix, for it rounds
    finer and most CPUs multiply it faster, and for bfloat16 elsewhere. ``packed`` lays large
    float16 matrices out as FBGEMM wants them. ``bfloat16`` multiplies in that format, on a CPU made
    for it: large matrices that bfloat16 holds exactly, as it does those that ever were in it, and
    many rows of activations with quantised ones. ``kernels`` False leaves every product to torch's
    plain operator, in the weights' own format. ``narrow`` keeps large 16-bit matrices as they are
    stored where ``dtype`` is float32 and this a CPU: their products are the same, and take longer.
    With a ``compiler``, large ones and quantised ones that want it get kernels of their own, and
    what they read lies on ``large_pages``. ``rounded`` gives them exactly the numbers of ``dtype``
    before all that; matrices that float16 cannot hold keep theirs. ``output``: this is for an
    output layer, of which all rows of activations keep float32. ``together``: so many matrices are
    of use side by side, and are small or large as one.
    """

    dtype: torch.dtype
    device: torch.device
    packed: bool = field(default_factory=can_pack)
    kernels: bool = True
    narrow: bool = False
    scratch: Scratch = field(default_factory=lambda: Scratch(), compare=False)
    workspace: Workspace = field(default_factory=lambda: Workspace(), compare=False)
    compiler: Compiler | None = field(default=None, compare=False)
    rounded: bool = False
    bfloat16: bool = False
    large_pages: bool = True
    output: bool = False
    together: int = 1

    @property
    def in_bfloat16(self) -> bool:
        """Whether many rows are multiplied so, which is not exact enough for float32."""
        return self.bfloat16 and self.dtype.itemsize == 2

    def make(self, parts: Sequence[Tensor]) -> Weight:
        """Stack the matrices [N_i, K] into one; a single one that needs no change is shared."""
        if self.stay_narrow(parts):
            return HalfWeight(stacked(parts, parts[0].dtype), self.scratch, one_row=False)
        if self.device.type != "cpu" or self.dtype.itemsize != 2:
            whole = stacked(parts, self.dtype, self.device)
            fast = self.kernels and self.device.type == "cpu" and self.dtype == torch.float32
            return FloatWeight(whole) if fast else DenseWeight(whole)
        if self.rounded:
            parts = [in_dtype(part, self.dtype) for part in parts]
        large = self.together * sum(part.numel() for part in parts) >= SMALL_MATRIX
        if large and self.kernels:
            narrow = self.bfloat16 and all(map(fits_bfloat16, parts))
            if self.compiler is not None:
                return self.compilable(parts, self.compiler, narrow=narrow)
            if narrow:
                return self.reordered(parts)
        held = all(fits_float16(part) for part in parts)
        dtype = torch.float16 if held else torch.bfloat16
        if not self.kernels:
            return DenseWeight(stacked(parts, dtype))
        if not large:
            return FloatWeight(stacked(parts, torch.float32))
        if held and self.packed:
            pieces = tuple(self.pack(piece) for piece in in_pieces(parts))
            return PackedWeight(pieces, (sum(map(len, parts)), parts[0].shape[1]))
        return HalfWeight(stacked(parts, dtype), self.scratch, one_row=held)

    def pack(self, parts: Sequence[Tensor]) -> Packed:
        """The matrices [N_i, K], one below the other, in FBGEMM's layout."""
        with self.workspace.matrix(sum(map(len, parts)), parts[0].shape[1]) as wide:
            fill(wide, parts)
            return pack(wide)

    def reordered(self, parts: Sequence[Tensor]) -> ReorderedWeight:
        """The matrices [N_i, K], which bfloat16 holds, as one in oneDNN's order."""
        pieces, first = [], 0
        for group in in_pieces(parts):
            pieces.append((first, self.in_onednn_order(group)))
            first += sum(map(len, group))
        return ReorderedWeight(tuple(pieces), (first, parts[0].shape[1]))

    def in_onednn_order(self, parts: Sequence[Tensor]) -> Reordered:
        """The same in one piece."""
        if len(parts) == 1 and parts[0].dtype == torch.bfloat16:
            return reorder(parts[0])
        rows, columns = sum(map(len, parts)), parts[0].shape[1]
        with self.workspace.matrix(rows, -(-columns // 2)) as room:
            whole = room.view(torch.bfloat16).flatten()[: rows * columns].view(rows, columns)
            fill(whole, parts)
            return reorder(whole)

    def compilable(
        self, parts: Sequence[Tensor], compiler: Compiler, *, narrow: bool
    ) -> OrderedWeight | PairedWeight | StreamedWeight:
        """The matrices [N_i, K] for compiled products; ``narrow``: many rows may be rounded."""
        shape = (sum(map(len, parts)), parts[0].shape[1])
        if narrow and padded_shape(*shape) == shape and is_paired(*shape):
            return ordered_weight(self.in_onednn_order(parts), shape, compiler)
        if self.output and shape[1] % 2 == 0 and all(map(fits_bfloat16, parts)):
            return paired_weight(parts, compiler, on_large_pages=self.large_pages)
        return self.streamed(parts, compiler, narrow=narrow)

    def streamed(
        self, parts: Sequence[Tensor], compiler: Compiler, *, narrow: bool
    ) -> StreamedWeight:
        """The matrices [N_i, K] for compiled products: as they are stored, if that is in 16 bits.

        They are copied: pages of a file are read more slowly than memory.
        """
        kinds = {part.dtype for part in parts}
        kept = kinds.pop()
        if kinds or kept.itemsize != 2:
            held = all(fits_float16(part) for part in parts)
            kept = torch.float16 if held else torch.bfloat16
        shape = (sum(map(len, parts)), parts[0].shape[1])
        whole = large_pages(shape, kept, wanted=self.large_pages)
        fill(whole, parts)
        traced = traced_matrix(whole)
        few = traced.own_kernels(shape[1], compiler)
        return StreamedWeight(whole, self.scratch, traced, few, narrow)

    def stay_narrow(self, parts: Sequence[Tensor]) -> bool:
        """Whether the matrices [N_i, K] keep their 16-bit format, to be expanded for products."""
        wanted = self.narrow and self.kernels and self.dtype == torch.float32
        if not wanted or self.device.type != "cpu":
            return False
        large = self.together * sum(part.numel() for part in parts) >= SMALL_MATRIX
        return large and parts[0].itemsize == 2 and len({part.dtype for part in parts}) == 1

    def table(self, matrix: Tensor) -> Tensor:
        """A matrix [N, K] whose rows are looked up, in no more bytes than it is stored in.

        On a CPU it stays in the checkpoint's file.
        """
        if self.device.type == "cpu":
            return matrix
        narrower = matrix.itemsize < self.dtype.itemsize
        return matrix.to(self.device, matrix.dtype if narrower else self.dtype)


def traced_matrix(matrix: Tensor) -> Traced:
    """The product with a matrix [N, K] as it is, for a compiler."""
    return Traced(Recipe(streamed_product, (), 1, len(matrix)), (matrix,))


def stacked(
    parts: Sequence[Tensor], dtype: torch.dtype, device: torch.device | None = None
) -> Tensor:
    """The matrices [N_i, K] as one; a single one that needs no change is shared."""
    if len(parts) == 1:
        return parts[0].to(device=device, dtype=dtype)
    out = torch.empty((sum(map(len, parts)), parts[0].shape[1]), dtype=dtype, device=device)
    fill(out, parts)
    return out


def in_dtype(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """A matrix with each number rounded to ``dtype``, as it is where that would make infinities."""
    if dtype == torch.float16 and matrix.numel():
        low, high = (value.item() for value in matrix.aminmax())
        if max(-low, high) > FLOAT16_MAX:
            return matrix
    return matrix.to(dtype)


def in_pieces(parts: Sequence[Tensor]) -> list[list[Tensor]]:
    """The matrices [N_i, K], cut and grouped to pieces of `PIECE_ELEMENTS` or less."""
    columns = parts[0].shape[1]
    if sum(part.numel() for part in parts) <= PIECE_ELEMENTS:
        return [list(parts)]
    most = max(1, PIECE_ELEMENTS // columns)
    return [[piece] for part in parts for piece in torch.split(part, most)]


def fill(out: Tensor, parts: Sequence[Tensor]) -> None:
    """Write the matrices [N_i, K] one below the other, each converted straight into its place."""
    start = 0
    for part in parts:
        out[start : start + len(part)].copy_(part)
        start += len(part)


def fits_bfloat16(matrix: Tensor) -> bool:
    """Whether bfloat16 holds a matrix exactly; so it does one that float16 was made of from it."""
    if matrix.dtype == torch.bfloat16:
        return True
    rows = max(1, PIECE_ELEMENTS // max(1, matrix.shape[1]))
    return all(
        torch.equal(part.bfloat16().to(part.dtype), part) for part in torch.split(matrix, rows)
    )


def fits_float16(tensor: Tensor) -> bool:
    """Whether float16 holds a matrix [N, K], and its products with rows up to 1, without harm."""
    if tensor.dtype == torch.float16 or not tensor.numel():
        return True
    low, high = (value.item() for value in tensor.aminmax())
    largest = max(-low, high)
    if largest * tensor.shape[-1] >= FLOAT16_MAX:  # a bound of the products; now exactly:
        longest = torch.linalg.vector_norm(tensor, 1, -1, dtype=torch.float32).max().item()
        return bool(longest < FLOAT16_MAX)
    return largest >= FLOAT16_MIN_SCALE
