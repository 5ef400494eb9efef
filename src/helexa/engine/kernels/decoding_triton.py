"""`decode_definition` on a GPU: all sequences at once, the keys of each split among programs.

Needs triton, and with TRITON_INTERPRET=1 set before the first import runs on CPU tensors as well.
Every split has its own largest score, sum of weights and weighted values (the running softmax of
arXiv:2205.14135); a second kernel puts the splits together (Flash-Decoding, Dao et al. 2023).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import triton
import triton.language as tl

from helexa.engine.kernels.decoding import splits
from helexa.engine.kernels.launching import FUSING, processors

if TYPE_CHECKING:
    from torch import Tensor

    from helexa.engine.kernels.decoding import Pages

LEAST_ROWS = 16
"""The fewest rows that matrix units take: the query heads of a group are filled up to them."""
LOG2_E = tl.constexpr(1.4426950408889634)


class Shape(NamedTuple):
    """What the kernels are compiled for.

    H ``heads`` on G ``groups`` of ``dim`` numbers (``block`` is the power of 2 ≥ dim); ``rows`` of
    a tile have a group's query heads, ``keys`` are taken at a time; ``splits``, ``page`` tokens.
    """

    heads: int
    groups: int
    dim: int
    block: int
    rows: int
    keys: int
    splits: int
    page: int


def paged_decode(
    q: Tensor, kv: Tensor, pages: Pages, gate: Tensor | None = None, parts: int | None = None
) -> Tensor:
    """`decode_definition`; rows of q and of gate may lie apart, a head's numbers may not.

    ``parts``: into how many the keys are split; None: as many as keep the GPU busy at the tables'
    length. It depends on shapes alone, so that a recorded graph may be replayed.
    """
    (sequences, heads, dim), groups = q.shape, kv.shape[1]
    if parts is None:
        parts = splits(sequences * groups, pages.most_keys, processors(q.device))
    shape = shape_of(q, kv, pages.size, parts)
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    sums = q.new_empty((sequences, heads, parts, dim) if parts > 1 else 0, dtype=torch.float32)
    marks = q.new_empty((sequences, heads, parts, 2) if parts > 1 else 0, dtype=torch.float32)
    gates = (gate, 0, 0) if gate is None else (gate, gate.stride(0), gate.stride(1))
    queries = q, q.stride(0), q.stride(1)
    memory = kv, kv.stride(0), kv.stride(1)
    table = pages.tables, pages.tables.stride(0), pages.lengths
    results = out, sums, marks
    options = {"num_warps": warps(shape), "num_stages": 2, **FUSING}
    grid = sequences * groups, parts
    split_kernel[grid](queries, memory, table, gates, results, shape, **options)
    if parts > 1:
        combine_kernel[(sequences * heads,)](pages.lengths, gates, results, shape, **FUSING)
    return out


def shape_of(q: Tensor, kv: Tensor, page: int, parts: int) -> Shape:
    """The tiles for queries [S, H, D]: fewer keys at a time where they have more bytes."""
    _, heads, dim = q.shape
    groups = kv.shape[1]
    block = max(16, triton.next_power_of_2(dim))
    rows = max(LEAST_ROWS, triton.next_power_of_2(heads // groups))
    keys = max(16, min(64, 2**14 // (block * q.element_size())))
    return Shape(heads, groups, dim, block, rows, keys, parts, page)


def warps(shape: Shape) -> int:
    """How many warps share a tile of keys."""
    return 4 if shape.block <= 128 else 8


@triton.jit
def split_kernel(
    queries: tl.tensor,
    memory: tl.tensor,
    table: tl.tensor,
    gates: tl.tensor,
    results: tl.tensor,
    shape: tl.constexpr,
) -> None:
    """The query heads of one group of one sequence over a share of its keys.

    ``queries`` and ``gates`` are (tensor, numbers from row to row, from head to head), ``memory``
    (cache, numbers from keys to values, from group to group), ``table`` (block tables, pages from
    row to row, lengths), ``results`` (out, weighted values, largest scores and sums of weights).
    """
    shared: tl.constexpr = shape.heads // shape.groups
    sequence = (tl.program_id(0) // shape.groups).to(tl.int64)
    group = (tl.program_id(0) % shape.groups).to(tl.int64)
    length = tl.load(table[2] + sequence)
    share = share_of(length, shape)
    first = tl.program_id(1) * share
    row = tl.arange(0, shape.rows)
    lane = tl.arange(0, shape.block)
    head = group * shared + row
    wanted = (row < shared)[:, None] & (lane < shape.dim)[None, :]
    place = sequence * queries[1] + head[:, None] * queries[2] + lane[None, :]
    q = tl.load(queries[0] + place, mask=wanted, other=0.0)
    pages = table[0] + sequence * table[1]
    base = memory[0] + group * memory[2]
    last = tl.minimum(first + share, length)
    best, total, sums = attend(q, (base, memory[1]), pages, (first, last), shape)
    if shape.splits == 1:
        finish((sums, total), sequence, head, wanted, gates, results[0], shape)
    elif first < length:  # others leave no trace: tables have room for up to four times the keys
        part = (sequence * shape.heads + head) * shape.splits + tl.program_id(1)
        tl.store(results[1] + part[:, None] * shape.dim + lane[None, :], sums, mask=wanted)
        tl.store(results[2] + 2 * part, best, mask=row < shared)
        tl.store(results[2] + 2 * part + 1, total, mask=row < shared)


@triton.jit
def share_of(length: tl.tensor, shape: tl.constexpr) -> tl.tensor:
    """How many keys each split gets, until there are none left."""
    return tl.cdiv(tl.cdiv(length, shape.splits), shape.keys) * shape.keys


@triton.jit
def attend(
    q: tl.tensor,
    memory: tl.tensor,
    pages: tl.tensor,
    share: tl.tensor,
    shape: tl.constexpr,
) -> tl.tensor:
    """Rows q [rows, block] over the keys from share[0] to before share[1].

    → the largest score of each row in units of log 2, the sum of its weights, both [rows], and its
    weighted values [rows, block], float32; -inf, 0 and 0 where the share is empty.
    """
    lane = tl.arange(0, shape.block)
    best = tl.full((shape.rows,), float("-inf"), tl.float32)
    total = tl.zeros((shape.rows,), tl.float32)
    sums = tl.zeros((shape.rows, shape.block), tl.float32)
    scale = LOG2_E * shape.dim**-0.5
    for start in range(share[0], share[1], shape.keys):
        key = start + tl.arange(0, shape.keys)
        seen = key < share[1]
        page = tl.load(pages + key // shape.page, mask=seen, other=0).to(tl.int64)
        slot = page * shape.page + key % shape.page
        place = memory[0] + slot[:, None] * shape.dim + lane[None, :]
        read = seen[:, None] & (lane < shape.dim)[None, :]
        k = tl.load(place, mask=read, other=0.0).to(q.dtype)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        scores = tl.where(seen[None, :], scores, float("-inf"))
        higher = tl.maximum(best, tl.max(scores, 1))
        weights = tl.exp2(scores - higher[:, None])
        shrink = tl.exp2(best - higher)
        v = tl.load(place + memory[1], mask=read, other=0.0).to(q.dtype)
        sums = tl.dot(weights.to(q.dtype), v, sums * shrink[:, None], input_precision="ieee")
        total = total * shrink + tl.sum(weights, 1)
        best = higher
    return best, total, sums


@triton.jit
def finish(
    mixed: tl.tensor,
    sequence: tl.tensor,
    head: tl.tensor,
    wanted: tl.tensor,
    gates: tl.tensor,
    out: tl.tensor,
    shape: tl.constexpr,
) -> None:
    """Divide ``mixed``, weighted values [rows, block] and sums of weights [rows]; use the gates."""
    lane = tl.arange(0, shape.block)
    result = mixed[0] / tl.where(mixed[1] > 0.0, mixed[1], 1.0)[:, None]
    if gates[0] is not None:
        place = sequence * gates[1] + head[:, None] * gates[2] + lane[None, :]
        gate = tl.load(gates[0] + place, mask=wanted, other=0.0).to(tl.float32)
        result *= tl.sigmoid(gate)
    place = (sequence * shape.heads + head[:, None]) * shape.dim + lane[None, :]
    tl.store(out + place, result.to(out.dtype.element_ty), mask=wanted)


@triton.jit
def combine_kernel(
    lengths: tl.tensor, gates: tl.tensor, results: tl.tensor, shape: tl.constexpr
) -> None:
    """Put the splits of one head of one sequence together (see `split_kernel`)."""
    sequence = (tl.program_id(0) // shape.heads).to(tl.int64)
    length = tl.load(lengths + sequence)
    there = tl.arange(0, shape.splits) * share_of(length, shape) < length
    head = tl.program_id(0) % shape.heads + tl.zeros((1,), tl.int32)
    part = tl.program_id(0).to(tl.int64) * shape.splits + tl.arange(0, shape.splits)
    lane = tl.arange(0, shape.block)
    inside = (lane < shape.dim)[None, :]
    best = tl.load(results[2] + 2 * part, mask=there, other=float("-inf"))
    highest = tl.maximum(tl.max(best, 0), -1e30)  # finite also where no split saw a key
    weight = tl.exp2(best - highest)
    total = tl.sum(weight * tl.load(results[2] + 2 * part + 1, mask=there, other=0.0), 0)
    place = results[1] + part[:, None] * shape.dim + lane[None, :]
    sums = tl.load(place, mask=there[:, None] & inside, other=0.0)
    sums = tl.sum(sums * weight[:, None], 0)[None, :]
    finish((sums, total[None]), sequence, head, inside, gates, results[0], shape)
