"""Tiles of matrices of small integers, expanded where oneDNN multiplies with them.

oneDNN's kernels for bfloat16 read a matrix [N, K] in blocks of 64 rows, in each of which pairs of
columns are neighbours: [N / 64, K / 2, 64, 2], with zeros up to whole blocks. A tile that is
written in this order need not be reordered at every product, which saves a twentieth of one with
128 rows. Its words are two columns of 64 rows, `kernels.lanes` has words of 16 rows.

What writes them is C++ (onednn_tiles.cpp), one function for matrices of any size. On an AMD EPYC
and one thread it expands 19 numbers a nanosecond in six bits, 17 in four, 24 in eight; what torch's
compiler makes of `lanes.tile` 8, 7 and 9, for it has no instruction that rounds to bfloat16.
"""

from __future__ import annotations

import ctypes
import threading
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import torch

from helexa.engine.kernels.compiled import OPTIONS, TRACING, Kernel
from helexa.engine.kernels.lanes import Form, Lanes, tile
from helexa.engine.kernels.narrow_product import Reordered, reorder, reordered_product

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from helexa.engine.kernels.compiled import Compiler

BLOCK_ROWS = 64
"""Rows of a block in oneDNN's order."""
COLUMN_STEP = 32
"""What columns are padded to a multiple of."""
SOURCE = Path(__file__).with_suffix(".cpp")
FLOATS = "cpp.enable_floating_point_contract_flag"


class Room(NamedTuple):
    """A bfloat16 matrix in oneDNN's order, and the memory that it lies in.

    ``words`` [N / 64, K / 2, 64] int32, N and K padded: the lower half is the even column.
    """

    matrix: Reordered
    words: Tensor


def padded_shape(matrix: Tensor) -> tuple[int, int]:
    """Rows and columns that a matrix [N, K] takes room for."""
    rows, columns = matrix.shape
    return -(-rows // BLOCK_ROWS) * BLOCK_ROWS, -(-columns // COLUMN_STEP) * COLUMN_STEP


def in_words(matrix: Tensor) -> Tensor:
    """The `Room.words` of a matrix [N, K] bfloat16, by the formula."""
    rows, columns = padded_shape(matrix)
    padded = matrix.new_zeros(rows, columns)
    padded[: matrix.shape[0], : matrix.shape[1]] = matrix
    pairs = padded.view(-1, BLOCK_ROWS, columns // 2, 2).transpose(1, 2).contiguous()
    return pairs.view(torch.int32).squeeze(-1)


def make_room(matrix: Tensor) -> Room:
    """A copy of a matrix [N, K] bfloat16. The words may be another order's: see `has_room`.

    Raises RuntimeError or AttributeError if torch lacks the operators, ValueError if there is not
    as much memory as that order takes.
    """
    made = reorder(matrix)
    size, start = torch.ops.mkldnn._nbytes(made), torch.ops.mkldnn.data_ptr(made)
    rows, columns = padded_shape(matrix)
    if size != rows * columns * matrix.element_size():
        raise ValueError(f"{size} bytes of a matrix of {rows} × {columns} numbers")
    memory = (ctypes.c_char * size).from_address(start)
    words = torch.frombuffer(memory, dtype=torch.int32)
    return Room(made, words.view(-1, columns // 2, BLOCK_ROWS))


@cache
def has_room(rows: int, columns: int) -> bool:
    """Whether oneDNN keeps matrices of this size in that order here, which nobody promises."""
    random = torch.Generator().manual_seed(1)
    matrix = torch.randint(-99, 99, (rows, columns), generator=random).bfloat16()
    try:
        room = make_room(matrix)
    except (RuntimeError, AttributeError, TypeError, ValueError):
        return False
    return torch.equal(room.words, in_words(matrix))


def fill(form: Form, words: Tensor, *tensors: Tensor) -> None:
    """Write the matrix of `Lanes.tensors`, rounded to bfloat16, as `Room.words`."""
    words.copy_(in_words(tile(form, torch.bfloat16, *tensors).T))


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
    with TRACING, config.patch({FLOATS: OPTIONS[FLOATS]}):
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


class OrderedTiles(Kernel):
    """`fill` for one form, and rooms for matrices that are products' next factors.

    Any number of threads may ask at a time: each gets a room of its own.
    """

    def __init__(self, form: Form) -> None:
        super().__init__(partial(fill, form), (), ())
        self.form = form
        self.rooms: dict[tuple[int, int], list[Room]] = {}
        self.lock = threading.Lock()

    def compile(self) -> None:
        """Make `run` fast. Raises what torch raises."""
        if self.run is self.definition:
            self.run = compiled_fill(self.form)

    def product(self, x: Tensor, lanes: Lanes) -> Tensor:
        """x @ Wᵀ: x [T, K] bfloat16 → [T, B · R] bfloat16."""
        blocks, columns, _ = lanes.words.shape
        with self.room(blocks * self.form.rows, columns) as room:
            self.run(room.words, *lanes.tensors())
            return reordered_product(x, room.matrix)

    @contextmanager
    def room(self, rows: int, columns: int) -> Iterator[Room]:
        """One whose rows and columns beyond these are zeros, until the end of the block."""
        with self.lock:
            free = self.rooms.setdefault((rows, columns), [])
            found = free.pop() if free else None
        if found is None:
            found = make_room(torch.zeros(rows, columns, dtype=torch.bfloat16))
        try:
            yield found
        finally:
            with self.lock:
                free.append(found)


def ordered_tiles(
    compiler: Compiler, form: Form, rows: set[int], columns: int
) -> OrderedTiles | None:
    """What expands tiles of so many ``rows``, still to be compiled; None if that cannot be."""
    if columns % 2 or not all(has_room(count, columns) for count in rows):
        return None
    return cast("OrderedTiles", compiler.shared((OrderedTiles, form), partial(OrderedTiles, form)))
