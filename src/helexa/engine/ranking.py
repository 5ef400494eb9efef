"""The best tokens of a row of logits, in the order that greedy choice, top-k and top-p use.

The order is by logit, highest first, equal logits by id, lowest first. A vocabulary has 10^5 tokens
and a draw looks at a few dozen, so rows are not sorted: they are cut into blocks, one pass takes
each block's maximum, and the ``n`` highest logits are in the ``n`` blocks with the highest maxima.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from helexa.engine.upload import upload

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

BLOCK: Final = 128
GROWTH: Final = 16
_MANY: Final = 8  # from so many rows on, numpy selects faster than torch

Few = tuple[list[float], list[int]]
"""Some logits of a row, and their ids."""


@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """Rows of logits cut into blocks.

    rows [R, N, 128] float32, the last block filled up with -inf; maxima [R, N]; ``peaks`` are each
    row's highest logit, NaN or +inf if and only if the row holds one.
    """

    rows: Tensor
    maxima: Tensor
    vocab_size: int
    peaks: list[float]

    @classmethod
    def of(cls, logits: Tensor) -> Blocks:
        """Cut logits [R, V] float32: a view where 128 divides V, else a copy."""
        rows, maxima = cut(logits)
        peaks: list[float] = maxima.amax(-1).tolist()
        return cls(rows, maxima, logits.shape[1], peaks)

    @property
    def best(self) -> list[int]:
        """The lowest id of each row's highest logits; made when it is asked for."""
        ids: list[int] = best_of(self.rows, self.maxima).tolist()
        return ids

    def highest(self, indices: Sequence[int], count: int) -> list[Few | None]:
        """The ``count`` first tokens of some rows, by id; None where that is not certain.

        That is where others equal the last of them, or where two blocks have the same maximum.
        """
        count = min(count, self.vocab_size)
        if self.rows.device.type != "cpu" or len(indices) < _MANY:
            best, where = self.unordered_top(indices, min(count + 1, self.vocab_size))
            found = zip(best.tolist(), where.tolist(), strict=True)
            return [by_id(row, count) for row in found]
        rows: Floats = self.rows.numpy()
        asked = list(indices)
        chosen = slice(None) if asked == list(range(len(rows))) else asked
        if 2 * count > rows.shape[1]:
            flat = rows.reshape(len(rows), -1)[chosen, : self.vocab_size]
            return lists(*highest_places(flat, count))
        _, blocks, exact = highest_places(self.maxima.numpy()[chosen], count)
        near = rows[np.array(asked)[:, None], blocks].reshape(len(blocks), -1)
        values, at, exact_too = highest_places(near, count)
        ids = np.take_along_axis(blocks, at // BLOCK, -1) * BLOCK + at % BLOCK
        return lists(values, ids, exact & exact_too)

    def top(self, indices: Sequence[int], count: int) -> tuple[Floats, Ints]:
        """The ``count`` highest logits of some rows and their ids, [rows, count], in order.

        Which of several tokens equal to the last one are in is arbitrary.
        """
        if self.rows.device.type == "cpu":
            return in_order(*self._cpu_top(indices, count))
        values, ids = self.unordered_top(indices, count)
        return in_order(values.cpu().numpy(), ids.cpu().numpy())

    def _cpu_top(self, indices: Sequence[int], count: int) -> tuple[Floats, Ints]:
        """As `top`, in any order: numpy selects several times faster than torch does."""
        rows: Floats = self.rows.numpy()
        chosen = list(indices)
        if 2 * count > rows.shape[1]:
            flat = rows.reshape(len(rows), -1)[:, : self.vocab_size]
            flat = flat if chosen == list(range(len(rows))) else flat[chosen]
            ids = any_highest(flat, count)
            return np.take_along_axis(flat, ids, -1), ids
        where = any_highest(self.maxima.numpy()[chosen], count)  # [I, count]
        near = rows[np.array(chosen)[:, None], where].reshape(len(chosen), -1)
        at = any_highest(near, count)
        ids = np.take_along_axis(where, at // BLOCK, -1) * BLOCK + at % BLOCK
        return np.take_along_axis(near, at, -1), ids

    def unordered_top(self, indices: Sequence[int], count: int) -> tuple[Tensor, Tensor]:
        """As `top`, in any order, where the rows are."""
        total, blocks, _ = self.rows.shape
        chosen = upload(indices, self.rows.device)  # a plain copy would wait for the model
        if 2 * count > blocks:
            rows = self.rows[chosen] if len(indices) < total else self.rows
            values, ids = rows.flatten(1)[:, : self.vocab_size].topk(count, dim=-1, sorted=False)
            return values, ids
        maxima = self.maxima.index_select(0, chosen)
        where = maxima.topk(count, dim=-1, sorted=False).indices  # [I, count]
        flat = (where + chosen[:, None] * blocks).flatten()
        near = self.rows.view(-1, BLOCK).index_select(0, flat).view(len(indices), -1)
        values, at = near.topk(count, dim=-1, sorted=False)
        return values, where.gather(1, at // BLOCK) * BLOCK + at % BLOCK

    def logit(self, index: int, token_id: int) -> float:
        """The logit of any token of a row."""
        return float(self.rows[index].view(-1)[token_id])

    def mass(self, index: int, temperature: float) -> float:
        """Sum over the vocabulary of exp((logit - peak) / temperature), of one row."""
        return float(self._weights(index, temperature).sum(-1).sum(dtype=torch.float64).item())

    def draw(self, index: int, temperature: float, min_p: float, number: float) -> int:
        """The id that ``number`` in [0, 1) falls on, on the running sum of the weights by id.

        Weights below ``min_p`` of the best one's count as 0, and a weight of 0 is never drawn.
        """
        weights = self._weights(index, temperature)
        if min_p > 0.0:
            weights.mul_(weights >= min_p)
        sums: NDArray[np.float64] = weights.sum(-1, dtype=torch.float64).cumsum(0).cpu().numpy()
        block = _falls_on(sums, number * sums[-1])
        inside: NDArray[np.float64] = weights[block].double().cumsum(0).cpu().numpy()
        before = sums[block - 1] if block else 0.0
        return block * BLOCK + _falls_on(inside, number * sums[-1] - before)

    def _weights(self, index: int, temperature: float) -> Tensor:
        """exp((logit - peak) / temperature) of one row, [N, 128].

        Row by row, so that the order of additions, and with it the last bit, is always the same.
        exp2 because it is twice as fast as exp on CPUs.
        """
        scaled = (self.rows[index] - self.peaks[index]).mul_(math.log2(math.e) / temperature)
        return scaled.exp2_()


def cut(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of logits [R, V] float32 as blocks [R, N, 128], and the maxima of these [R, N]."""
    count, vocab_size = logits.shape
    if vocab_size % BLOCK:
        logits = F.pad(logits, (0, -vocab_size % BLOCK), value=-torch.inf)
    rows = logits.contiguous().view(count, -1, BLOCK)
    return rows, rows.amax(-1)  # a NaN wins over every number


def best_of(rows: Tensor, maxima: Tensor) -> Tensor:
    """The lowest id of each row's highest logits, [R], from what `cut` makes."""
    # argmax is documented to give the first of equal maxima, on every device.
    block = maxima.argmax(-1)  # [R]
    flat = block + torch.arange(len(rows), device=rows.device) * rows.shape[1]
    inside = rows.view(-1, BLOCK).index_select(0, flat).argmax(-1)  # [R]
    return block * BLOCK + inside


def highest_places(values: Floats, count: int) -> tuple[Floats, Ints, NDArray[np.bool_]]:
    """The ``count`` highest of each row of values [R, n], and where they are, in this order.

    The last [R] tells of which rows that is all: none that is left out equals one that is not.
    """
    total, size = values.shape
    shape = total, count
    if count == size:
        return values, np.broadcast_to(np.arange(size), shape), np.ones(total, bool)
    lowest = np.partition(values, size - count, -1)[:, size - count, None]
    inside = values >= lowest
    at = inside.ravel().nonzero()[0]
    if len(at) == total * count:  # in no row there are less, so in none there are more
        return values.ravel()[at].reshape(shape), at.reshape(shape) % size, np.ones(total, bool)
    places = any_highest(values, count)
    places.sort(-1)
    exact = (inside.sum(-1) == count) | (lowest[:, 0] == -np.inf)
    return np.take_along_axis(values, places, -1), places, exact


def lists(values: Floats, ids: Ints, exact: NDArray[np.bool_]) -> list[Few | None]:
    """Logits and ids [R, k] row by row, None for those that are not exact."""
    rows = zip(values.tolist(), ids.tolist(), exact.tolist(), strict=True)
    return [(some, tokens) if whole else None for some, tokens, whole in rows]


def by_id(row: Few, count: int) -> Few | None:
    """The ``count`` first tokens of ``row``, by id; None if the next, if there is one, equals them.

    Impossible ones may be more: which of them are there makes no difference.
    """
    falling = sorted(row[0], reverse=True)
    last = falling[count - 1]
    if len(falling) > count and falling[count] == last > -math.inf:
        return None
    ids, values = zip(*sorted((i, v) for v, i in zip(*row, strict=True) if v >= last), strict=True)
    return list(values), list(ids)


def any_highest(values: Floats, count: int) -> Ints:
    """Where each row of values [R, n] has its ``count`` highest, [R, count], in any order."""
    size = values.shape[-1]
    if count == size:
        return np.broadcast_to(np.arange(size), values.shape)
    found: Ints = values.argpartition(size - count, -1)[:, size - count :]
    return found


def in_order(values: Floats, ids: Ints) -> tuple[Floats, Ints]:
    """Logits [R, n] and their ids, by logit, highest first, equal ones by id.

    Both are sorted as one integer, which is many times faster than by two keys: the bits of a
    float32, those behind the sign turned round where it is set, ascend as the numbers do.
    """
    bits = (values + np.float32(0.0)).view(np.int32)  # -0.0 is 0.0 to whoever compares
    rising = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    keys = (~rising).astype(np.int64) << 32 | ids
    keys.sort(-1)
    rising = ~(keys >> 32).astype(np.int32)
    return (rising ^ ((rising >> 31) & 0x7FFFFFFF)).view(np.float32), keys & 0xFFFFFFFF


def _falls_on(mass: NDArray[np.float64], target: float) -> int:
    """The first place whose running sum is above ``target``, or the last one that adds to it."""
    last = int(mass.searchsorted(mass[-1]))
    return min(int(mass.searchsorted(target, side="right")), last)


class Ranking:
    """A row's tokens from best to worst, read as far as somebody needs.

    ``values`` [n] float32 and ``ids`` [n] int64 are in order and leave out nothing before their
    end; ``whole`` says that whatever they leave out is impossible (-inf). All of it depends on the
    row alone.
    """

    def __init__(self, blocks: Blocks, index: int, values: Floats, ids: Ints) -> None:
        self._blocks = blocks
        self._index = index
        self.peak = blocks.peaks[index]
        self._take(values, ids)

    def __len__(self) -> int:
        return len(self.values)

    def extend(self) -> None:
        """Read on, much further, or to the end if that is near."""
        count, end = self._read * GROWTH, self._blocks.vocab_size
        values, ids = self._blocks.top([self._index], count if count * GROWTH < end else end)
        self._take(values[0], ids[0])

    def mass(self, temperature: float) -> float:
        """Sum of all weights relative to the best token's, see Blocks.mass."""
        return self._blocks.mass(self._index, temperature)

    def logit(self, token_id: int) -> float:
        """The logit of any token."""
        return self._blocks.logit(self._index, token_id)

    def _take(self, values: Floats, ids: Ints) -> None:
        """Keep what is certain: tokens equal to the last one may be missing some of their kind."""
        self._read = len(values)
        self.values, self.ids, self.whole = values, ids, True
        if self._read < self._blocks.vocab_size:
            last = values[-1]
            sure = np.count_nonzero(values > last)
            self.values, self.ids = values[:sure], ids[:sure]
            self.whole = bool(last == -np.inf)


def rankings(blocks: Blocks, indices: Sequence[int], counts: Sequence[int]) -> list[Ranking]:
    """Rankings of some rows, each read ``counts`` tokens far, for the price of one selection."""
    if not indices:
        return []
    sizes = [min(count, blocks.vocab_size) for count in counts]
    values, ids = blocks.top(indices, max(sizes))
    found = zip(indices, sizes, values, ids, strict=True)
    return [Ranking(blocks, i, row[:size], at[:size]) for i, size, row, at in found]
