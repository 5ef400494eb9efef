"""Counts what work on a GPU launches, and the bytes that each launch reads and writes.

Nothing is measured, and nothing need run: with tensors of torch's ``meta`` device, which have sizes
and no contents, the work of any model is counted within seconds, on any machine. What is counted
are the different bytes that a launch touches: what it reads twice comes from a cache the second
time. Operators of torch count as one launch each, though some of them are several kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from helexa.engine.kernels import decoding_triton, one_row_triton, products_triton

Arguments = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Launch:
    """A kernel or an operator, and the bytes that it reads and writes."""

    name: str
    read: int
    written: int

    @property
    def moved(self) -> int:
        """Bytes both ways."""
        return self.read + self.written


def touched(*values: object) -> int:
    """Different bytes that tensors have; tuples are looked into, other things have none."""
    total = 0
    for value in values:
        if isinstance(value, tuple | list):
            total += touched(*value)
        elif isinstance(value, Tensor) and value.numel():
            sizes = zip(value.shape, value.stride(), strict=True)
            total += value.itemsize * torch.Size(n for n, step in sizes if step).numel()
    return total


def add_norm(given: Arguments) -> tuple[int, int]:
    x, change = given["x"], given["change"]  # splits of one, too
    read = touched(x, change, given["gain"], given["floor"])
    return read, touched(given["out"]) + (0 if change is None else touched(x))


def place(given: Arguments) -> tuple[int, int]:
    """Projected rows but for the gates; new keys and values to the cache."""
    heads, tokens = given["heads"], len(given["slots"])
    width = heads.queries + 2 * heads.groups
    y = tokens * width * heads.dim * given["y"].itemsize
    stored = tokens * 2 * heads.groups * heads.dim * given["memory"][0].itemsize
    read = y + touched(given["slots"], given["angles"])
    if given["norm"][0] is not None:  # a gain for each of the heads that have a norm
        read += touched(given["norm"])
    return read, touched(given["out"]) + stored


def splits(given: Arguments, lengths: list[int]) -> tuple[int, int]:
    """The pages of tables that are used, and the keys and values on them."""
    shape, (cache, *_), (tables, _, counts) = given["shape"], given["memory"], given["table"]
    kept = sum(lengths) * shape.groups * 2 * shape.dim * cache.itemsize
    pages = sum(-(-length // shape.page) for length in lengths) * tables.itemsize
    out = given["results"][0]
    read = touched(given["queries"]) + kept + pages + touched(counts)
    if shape.splits > 1:
        return read, partial_bytes(shape, lengths)
    return read + touched(given["gates"]), touched(out)


def combined(given: Arguments, lengths: list[int]) -> tuple[int, int]:
    partial = partial_bytes(given["shape"], lengths)
    read = partial + touched(given["lengths"], given["gates"])
    return read, touched(given["results"][0])


def partial_bytes(shape: decoding_triton.Shape, lengths: list[int]) -> int:
    """What splits that have keys leave: weighted values, a largest score and a sum of weights."""
    used = 0
    for length in lengths:
        share = math.ceil(math.ceil(length / shape.splits) / shape.keys) * shape.keys
        used += math.ceil(length / share) if length else 0
    return used * shape.heads * (shape.dim + 2) * 4


def looked_up(given: Arguments) -> tuple[int, int]:
    """A row of the matrix for each id."""
    rows, ids = given["matrix"][0], given["ids"]
    return len(ids) * rows[0].numel() * rows.itemsize + touched(ids), touched(given["out"])


def best(given: Arguments) -> tuple[int, int]:
    """All maxima, and a block of logits of each row."""
    rows, out = given["rows"], given["out"]
    return touched(given["maxima"], rows[:, 0]), touched(out)


def added_up(given: Arguments) -> tuple[int, int]:
    """Rows of logits, of which a draw may be from any, and what is asked but for the number."""
    rows, count = given["rows"], len(given["asked"])
    return count * (touched(rows[0]) + 3 * 8 + 8), touched(given["sums"])


def drawn(given: Arguments) -> tuple[int, int]:
    """Sums, what is asked, a peak and a block of logits for each draw."""
    rows, count = given["rows"], len(given["asked"])
    block = rows.shape[-1] * rows.itemsize
    return touched(given["sums"], given["asked"]) + count * (block + 8), touched(given["out"])


def written_to(*names: str) -> Callable[[Arguments], tuple[int, int]]:
    """The rule of kernels that read everything but the arguments of these names."""

    def rule(given: Arguments) -> tuple[int, int]:
        read = [value for name, value in given.items() if name not in names]
        return touched(*read), touched(*(given[name] for name in names))

    return rule


def changed(name: str) -> Callable[[Arguments], tuple[int, int]]:
    """The rule of kernels that read everything and write one of it."""
    return lambda given: (touched(*given.values()), touched(given[name]))


RULES: Mapping[str, Callable[[Arguments], tuple[int, int]]] = MappingProxyType(
    {
        "add_norm_kernel": add_norm,
        "best_kernel": best,
        "added_kernel": changed("stream"),
        "angles_kernel": written_to("out"),
        "draw_kernel": drawn,
        "joined_kernel": written_to("out"),
        "look_up_kernel": looked_up,
        "normed_kernel": written_to("out"),
        "place_kernel": place,
        "product_kernel": written_to("out"),
        "silu_mul_kernel": written_to("out"),
        "sums_kernel": added_up,
    }
)
"""What a kernel reads and writes, from its arguments by name."""

ATTENTION = MappingProxyType({"split_kernel": splits, "combine_kernel": combined})
"""The same of those for which lengths of sequences matter."""

FREE = frozenset(
    {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view"}
)
"""Operators that claim memory or look at it in another way: nothing is launched."""
LOOK_UPS = frozenset({"index_select", "gather", "embedding", "index"})
"""Operators that read as much of a tensor as they write."""


class Operators(TorchDispatchMode):
    """Notes torch's operators."""

    def __init__(self, launches: list[Launch]) -> None:
        super().__init__()
        self.launches = launches

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        given = list(tensors((*args, *(kwargs or {}).values())))
        made = list(tensors(out))
        same = made and all(any(new is old for old in given) for new in made)
        changes = func._schema.is_mutable
        if func.is_view or name in FREE or (same and not changes):
            return out
        written = touched(made)
        if name in LOOK_UPS:
            self.launches.append(Launch(name, written + touched(given[1:]), written))
        else:
            self.launches.append(Launch(name, touched(given), written))
        return out


def tensors(value: object) -> Iterator[Tensor]:
    """The tensors in nested tuples and lists."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors(item)


@contextmanager
def counted(lengths: list[int], processors: int = 132) -> Iterator[list[Launch]]:
    """Note launches, for sequences of these ``lengths``; kernels of ``meta`` tensors do not run.

    Work is divided as for a GPU of so many ``processors`` (132: an H200).
    """
    launches: list[Launch] = []
    kind = type(decoding_triton.split_kernel)
    really = kind.run

    def run(kernel: Any, *args: Any, **options: Any) -> Any:
        given = dict(zip(kernel.arg_names, args, strict=False))
        name = kernel.__name__
        rule = ATTENTION.get(name)
        moved = rule(given, lengths) if rule else RULES[name](given)
        launches.append(Launch(name.removesuffix("_kernel"), *moved))
        if not any(tensor.is_meta for tensor in tensors(args)):
            with torch.utils._python_dispatch._disable_current_modes():
                really(kernel, *args, **options)

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(kind, "run", run))
        for module in (decoding_triton, one_row_triton, products_triton):
            stack.enter_context(mock.patch.object(module, "processors", lambda device: processors))
        stack.enter_context(Operators(launches))
        yield launches
