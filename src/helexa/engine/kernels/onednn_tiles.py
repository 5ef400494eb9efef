"""Tiles of matrices of small integers, expanded where oneDNN multiplies with them.

A tile that is written in oneDNN's order (see `onednn_order`) need not be reordered at every
product. Its words are two columns of 64 rows, `kernels.lanes` has words of 16 rows.

What writes them is C++ (onednn_tiles.cpp), one function for matrices of any size. What torch's
compiler makes of `lanes.tile` is slower, for it has no instruction that rounds to bfloat16
(benchmarks/README.md, "Compiled kernels").
"""

from __future__ import annotations

import ctypes
import threading
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from helexa.engine.kernels.compiled import OPTIONS, TRACING, Kernel
from helexa.engine.kernels.lanes import tile
from helexa.engine.kernels.narrow_product import Reordered, reorder, reordered_product
from helexa.engine.kernels.onednn_order import in_blocks, is_paired, whole_blocks
from helexa.engine.kernels.paired import paired_words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from helexa.engine.kernels.compiled import Compiler
    from helexa.engine.kernels.lanes import Form

SOURCE = Path(__file__).with_suffix(".cpp")
CONTRACTION = "cpp.enable_floating_point_contract_flag"
"""Of `OPTIONS`, the one that changes what C++ computes."""


class Room(NamedTuple):
    """A bfloat16 matrix in oneDNN's order, and the memory that it lies in.

    ``words`` [N / 64, K / 2, 64] int32, N and K padded: the lower half is the even column.
    """

    matrix: Reordered
    words: Tensor


def make_room(rows: int, columns: int) -> Room:
    """One for a matrix [rows, columns] whose order `is_paired`, of zeros."""
    matrix = reorder(torch.zeros(rows, columns, dtype=torch.bfloat16))
    return Room(matrix, in_blocks(matrix, (rows, columns)))


def fill(form: Form, words: Tensor, *tensors: Tensor) -> None:
    """Write the matrix of `Lanes.tensors`, rounded to bfloat16, as `Room.words`."""
    words.copy_(paired_words(whole_blocks(tile(form, torch.bfloat16, *tensors).T)))


def compiled_fill(form: Form) -> Callable[..., None]:
    """`fill` of a form in C++. Raises what torch raises where compiling fails, or OSError."""
    from torch._inductor import config
    from torch._inductor.codecache import CppCodeCache

    defined = {
        "BITS": form.bits,
        "GROUP": form.group,
        "ZERO": form.zero,
        "FINE": int(form.fine),
        "AFFINE": int(form.affine),
        "HALF_UNIT": form.half_unit,
    }
    head = "".join(f"#define {name} {value}\n" for name, value in defined.items())
    with TRACING, config.patch({CONTRACTION: OPTIONS[CONTRACTION]}):
        expand = CppCodeCache.load(head + SOURCE.read_text(encoding="utf-8")).expand
    pointer, count = ctypes.c_void_p, ctypes.c_long
    expand.argtypes = (pointer, *(count,) * 4, *(pointer,) * 5)
    expand.restype = None

    def run(words: Tensor, *tensors: Tensor) -> None:
        source, scale, offset = form.lanes(tensors)
        blocks, columns, _ = source.shape
        sizes = (words[0].numel(), blocks, columns // form.group, scale.coarse.shape[1])
        held = (source, *scale, *(offset or (None, None)))
        expand(words.data_ptr(), *sizes, *(0 if part is None else part.data_ptr() for part in held))

    return run


class Rooms:
    """Rooms to be used again, by the rows and columns of their matrices.

    Any number of threads may ask at a time: each gets a room of its own.
    """

    def __init__(self) -> None:
        self.free: dict[tuple[int, int], list[Room]] = {}
        self.lock = threading.Lock()

    @contextmanager
    def room(self, rows: int, columns: int) -> Iterator[Room]:
        """One whose rows and columns beyond these are zeros, until the end of the block."""
        with self.lock:
            free = self.free.setdefault((rows, columns), [])
            found = free.pop() if free else None
        if found is None:
            found = make_room(rows, columns)
        try:
            yield found
        finally:
            with self.lock:
                free.append(found)


def ordered_product(
    form: Form, rooms: Rooms, write: Callable[..., None], x: Tensor, *tensors: Tensor
) -> Tensor:
    """x @ Wᵀ: x [T, K] bfloat16, `Lanes.tensors` → [T, B · R] bfloat16; ``write`` is a `fill`."""
    blocks, columns, _ = tensors[0].shape
    with rooms.room(blocks * form.rows, columns) as room:
        write(room.words, *tensors)
        return reordered_product(x, room.matrix)


def ordered_kernel(form: Form, rooms: Rooms) -> Kernel:
    """The product with tiles of a form, of any size whose order `is_paired`."""
    product = partial(ordered_product, form, rooms)

    def make() -> Callable[..., Tensor]:
        return partial(product, compiled_fill(form))

    return Kernel(partial(product, partial(fill, form)), make)


def ordered_tiles(compiler: Compiler, form: Form, rows: set[int], columns: int) -> Kernel | None:
    """`ordered_kernel` for tiles of so many ``rows``, one for a form; None if that cannot be."""
    if columns % 2 or not all(is_paired(count, columns) for count in rows):
        return None
    return compiler.shared((ordered_kernel, form), lambda: ordered_kernel(form, Rooms()))
