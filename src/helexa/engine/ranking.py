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

from helexa.engine.kernels.stored_matrix import device_of
from helexa.engine.staging import received, sent

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

BLOCK: Final = 128
GROWTH: Final = 16


@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """Rows of logits cut into blocks.

    rows [R, N, 128] float32, the last block filled up with -inf; maxima [R, N], None if nobody
    asked for them yet; ``peaks`` and ``best`` are each row's highest logit and the lowest id that
    has it. A peak is NaN or +inf if and only if the row holds one.
    """

    rows: Tensor
    maxima: Tensor | None
    vocab_size: int
    peaks: list[float]
    best: list[int]

    @classmethod
    def of(cls, logits: Tensor, *, kernels: bool = False) -> Blocks:
        """Cut logits [R, V] float32: a view where 128 divides V, else a copy.

        ``kernels``: a kernel of triton finds the best.
        """
        count, vocab_size = logits.shape
        if kernels:
            peaks, best = best_by_kernel(logits)
            return cls(in_blocks(logits), None, vocab_size, peaks, best)
        rows = in_blocks(logits)
        maxima = rows.amax(-1)  # [R, N]; a NaN wins over every number
        # argmax is documented to give the first of equal maxima, on every device.
        block = maxima.argmax(-1)  # [R]
        flat = block + torch.arange(count, device=rows.device) * rows.shape[1]
        inside = rows.view(-1, BLOCK).index_select(0, flat).argmax(-1)  # [R]
        highest, ids = received(maxima.amax(-1), block * BLOCK + inside)
        return cls(rows, maxima, vocab_size, highest.tolist(), ids.tolist())

    @property
    def by_kernel(self) -> bool:
        """Whether a kernel found the best."""
        return self.maxima is None

    def top(self, indices: Sequence[int], count: int) -> tuple[Floats, Ints]:
        """The ``count`` highest logits of some rows and their ids, [rows, count], in order.

        Which of several tokens equal to the last one are in is arbitrary.
        """
        values, ids = (found.numpy() for found in received(*self._top(indices, count)))
        order = np.lexsort((ids, -values), axis=-1)
        return np.take_along_axis(values, order, -1), np.take_along_axis(ids, order, -1)

    def _top(self, indices: Sequence[int], count: int) -> tuple[Tensor, Tensor]:
        """As `top`, with equal logits in any order."""
        total, blocks, _ = self.rows.shape
        chosen = sent(indices, self.rows, torch.int64)
        if 2 * count > blocks:
            rows = self.rows if len(indices) == total else self.rows[chosen]
            values, ids = rows.flatten(1)[:, : self.vocab_size].topk(count, dim=-1)
            return values, ids
        maxima = self.rows.amax(-1) if self.maxima is None else self.maxima
        where = maxima.index_select(0, chosen).topk(count, dim=-1).indices  # [I, count]
        flat = (where + chosen[:, None] * blocks).flatten()
        near = self.rows.view(-1, BLOCK).index_select(0, flat).view(len(indices), -1)
        values, at = near.topk(count, dim=-1)
        return values, where.gather(1, at // BLOCK) * BLOCK + at % BLOCK

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


def in_blocks(logits: Tensor) -> Tensor:
    """logits [R, V] → [R, N, 128], the last block filled up with -inf."""
    count, vocab_size = logits.shape
    if vocab_size % BLOCK:
        logits = F.pad(logits, (0, -vocab_size % BLOCK), value=-torch.inf)
    return logits.contiguous().view(count, -1, BLOCK)


def best_by_kernel(logits: Tensor) -> tuple[list[float], list[int]]:
    """Each row's highest logit and the lowest id that has it."""
    from helexa.engine.kernels.best_triton import best_of_rows  # not everyone has triton

    with device_of(logits):
        peaks, best = best_of_rows(logits).cpu()
    return peaks.tolist(), best.long().tolist()


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
        return float(self._blocks.rows[self._index].view(-1)[token_id])

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
