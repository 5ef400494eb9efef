"""Launches the kernels of a decode step as for a GPU that need not be there: they are compiled.

    python compile_decode.py 80 bf16

Run as a script, without the interpreter. Prints, as JSON, the shared memory in bytes that each
kernel asks for, in the order of their launches.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from helexa.engine.ahead.guessing import MOST, Guess
from helexa.engine.kernels.angles_triton import angles_on_device
from helexa.engine.kernels.choosing_triton import Drawn, best_on_device, draw_by_kernel
from helexa.engine.kernels.decoding import Pages
from helexa.engine.kernels.decoding_triton import paged_decode
from helexa.engine.kernels.guess_triton import guess_by_kernel
from helexa.engine.kernels.joining_triton import joined
from helexa.engine.kernels.look_up_triton import look_up
from helexa.engine.kernels.norm_triton import add_rms_norm_on_device
from helexa.engine.kernels.one_row_triton import added_product, normed_product
from helexa.engine.kernels.placing import Projected
from helexa.engine.kernels.placing_triton import place_on_device
from helexa.engine.kernels.silu_mul_triton import silu_mul_on_device
from helexa.engine.kernels.stored_matrix import StoredMatrix
from helexa.engine.ranking import cut

TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
ATTENTION = [(16, 8, 128), (16, 2, 256)]
"""Query heads, key heads, numbers of each."""
SEQUENCES = 3
VOCABULARY = 128 * 1187


class Pretended:
    """As much of a driver as is asked before a kernel is launched."""

    def __init__(self, target: GPUTarget) -> None:
        self.target = target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return self.target


def pretend(target: GPUTarget) -> list[tuple[str, int]]:
    """Have launches compile and stop there; → the kernels so far, with their shared memory."""
    driver.set_active(Pretended(target))
    launched: list[tuple[str, int]] = []
    run = JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        kernel = run(self, *args, grid=grid, warmup=True, **kwargs)
        launched.append((self.__name__, int(kernel.metadata.shared)))

    JITFunction.run = compile_only  # there is no argument for it where kernels are launched
    return launched


def small(new: Any) -> None:
    """Norms, activation, angles, products of one row."""
    zeros = partial(torch.zeros, dtype=torch.float32)
    for size in (1024, 5120):
        x, norm = new(SEQUENCES, size), (zeros(size), zeros(()))
        add_rms_norm_on_device(x, x, *norm)
        add_rms_norm_on_device(x, None, *norm)
        normed_product(x[:1], norm, new(64, size))
        normed_product(x[:1], norm, new(64, size), gated=True)
    silu_mul_on_device(new(SEQUENCES, 6144))
    added_product(new(1, 3072), new(64, 3072), new(1, 64))
    angles_on_device(torch.zeros(SEQUENCES, dtype=torch.int64), zeros(64), 1.0)


def tokens(new: Any) -> None:
    """Looking tokens up in stored blocks, and choosing them."""
    ids = torch.zeros(SEQUENCES, dtype=torch.int64)
    for name, nbytes in (("Q6_K", 210), ("Q4_K", 144), ("Q8_0", 8 * 34)):
        table = torch.zeros((8, 4 * nbytes), dtype=torch.uint8)
        look_up(ids, StoredMatrix(name, (table,), (8, 1024)), new(0).dtype)
    joined(torch.zeros(4, SEQUENCES, 1024), new(0).dtype)
    rows, maxima = cut(torch.zeros(SEQUENCES, VOCABULARY))
    peaks, _ = best_on_device(rows, maxima)
    masses, _ = draw_by_kernel(rows, peaks, [Drawn(0, 1.0, 0.0, 0.5)])
    for count in (1, 52, MOST):
        values, at = torch.zeros(SEQUENCES, count), torch.zeros((SEQUENCES, count)).long()
        guess_by_kernel(values, at, masses, [Guess(0, 0.7, 20, 0.95, 0.0, 0.5, -1)])


def attention(new: Any, sizes: tuple[int, int, int], *, gated: bool) -> None:
    """The kernels of one layer of these sizes."""
    heads, groups, dim = sizes
    y = new(SEQUENCES, ((2 if gated else 1) * heads + 2 * groups) * dim)
    made = Projected(y, heads, groups, gated)
    turned = dim // 2 if gated else dim
    angles = torch.zeros(SEQUENCES, 1, turned), torch.zeros(SEQUENCES, 1, turned)
    kv = new(groups, 2, 64, dim).transpose(0, 1)
    norm = None if gated else (torch.zeros(heads + groups, dim), torch.zeros(()))
    q = place_on_device(made, norm, angles, kv, torch.zeros(SEQUENCES, dtype=torch.int64))
    tables = torch.zeros((SEQUENCES, 16), dtype=torch.int32)
    pages = Pages(tables, torch.zeros(SEQUENCES, dtype=torch.int32), 16)
    for parts in (1, 8):
        paged_decode(q, kv, pages, made.gate, parts=parts)


def main(capability: str, dtype: str) -> None:
    launched = pretend(GPUTarget("cuda", int(capability), 32))
    new = partial(torch.zeros, dtype=TYPES[dtype])
    small(new)
    tokens(new)
    for sizes in ATTENTION:
        for gated in (False, True):
            attention(new, sizes, gated=gated)
    print(json.dumps(launched))  # noqa: T201 - what the caller reads


if __name__ == "__main__":
    main(*sys.argv[1:])
