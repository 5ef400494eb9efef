"""Everything that choosing tokens will ask of logits on a GPU, in a single copy to the host.

Each read from a device waits for all that it was told to do. So what the sampler probably asks for
is computed there first, for all rows, and then fetched at once; what it asks for beyond that, such
as the many tokens of a flat distribution, it reads as it would without this.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from helexa.engine.drawing import MARGIN, divisor, first_read, needs_ranking
from helexa.engine.logit_changes import SampleRow, changed_logits, has_changes, known
from helexa.engine.philox import uniform
from helexa.engine.ranking import Blocks, Few, Floats, Ints, best_of, by_id, cut, in_order
from helexa.engine.upload import upload


@dataclass(frozen=True, slots=True, eq=False)
class KnownBlocks(Blocks):
    """Blocks of which the host knows something already, by row: see `Blocks` for what.

    ``firsts`` are the best tokens, ``tops`` are as long as was asked for; ``logits`` are the
    model's, by token id.
    """

    firsts: list[int]
    tops: dict[int, tuple[Floats, Ints]]
    masses: dict[tuple[int, float], float]
    draws: dict[int, int]
    logits: dict[int, dict[int, float]]

    @property
    def best(self) -> list[int]:
        return self.firsts

    def highest(self, indices: Sequence[int], count: int) -> list[Few | None]:
        count = min(count, self.vocab_size)
        values, ids = self.top(indices, min(count + 1, self.vocab_size))
        found = zip(values.tolist(), ids.tolist(), strict=True)
        return [by_id(row, count) for row in found]

    def top(self, indices: Sequence[int], count: int) -> tuple[Floats, Ints]:
        found = [self.tops[i] for i in indices if i in self.tops]
        if len(found) < len(indices) or any(len(ids) < count for _, ids in found):
            return Blocks.top(self, indices, count)
        values, ids = zip(*found, strict=True)
        return np.stack([row[:count] for row in values]), np.stack([row[:count] for row in ids])

    def logit(self, index: int, token_id: int) -> float:
        found = self.logits.get(index, {}).get(token_id)
        return Blocks.logit(self, index, token_id) if found is None else found

    def mass(self, index: int, temperature: float) -> float:
        found = self.masses.get((index, temperature))
        return Blocks.mass(self, index, temperature) if found is None else found

    def draw(self, index: int, temperature: float, min_p: float, number: float) -> int:
        return self.draws[index]


class Asked:
    """Rows of logits [R, V] float32 on a device, and what is to be known of them.

    ``tops`` are tokens by row, ``masses`` pairs of a row and a temperature, ``draws`` a row,
    temperature, min-p and number each. With ``kernels`` triton's find all but the tops.
    """

    def __init__(self, logits: Tensor, *, kernels: bool) -> None:
        self.vocab_size = logits.shape[1]
        self.kernels = kernels
        self.rows, self.maxima = cut(logits)
        if kernels:
            from helexa.engine.kernels.choosing_triton import best_on_device  # as for `_weighed`

            self.summary = best_on_device(self.rows, self.maxima)
        else:
            best = best_of(self.rows, self.maxima)
            self.summary = torch.stack((self.maxima.amax(-1).double(), best.double()))
        self.peaks, self.best = self.summary
        self.tops: dict[int, int] = {}
        self.masses: list[tuple[int, float]] = []
        self.draws: list[tuple[int, float, float, float]] = []
        self.top_ids = self.drawn = torch.empty(0)

    def ask(self, index: int, row: SampleRow) -> None:
        """All that a draw takes; a greedy choice takes nothing but the best."""
        params = row.params
        if known(params.temperature) <= 0.0:
            return
        if needs_ranking(params):
            self.tops[index] = first_read(params)
            if not known(params.top_k):
                self.masses.append((index, divisor(params)))
            return
        number = uniform(known(params.seed), len(row.generated))
        self.draws.append((index, divisor(params), known(params.min_p), number))

    def ask_top(self, index: int, count: int) -> None:
        self.tops[index] = max(count, self.tops.get(index, 0))

    def compute(self) -> list[Tensor]:
        """Peaks and best, values and ids of ``tops``, masses, drawn ids: still on the device."""
        found = [self.summary]
        if self.tops:
            plain = Blocks(self.rows, self.maxima, self.vocab_size, [])
            count = min(max(self.tops.values()), self.vocab_size)
            values, self.top_ids = plain.unordered_top(sorted(self.tops), count)
            found += [values, self.top_ids]
        return found + self._weighed()

    def _weighed(self) -> list[Tensor]:
        """Masses and drawn ids; by kernels, both of each, those of the masses first."""
        found, device = [], self.rows.device
        if self.kernels and (self.masses or self.draws):
            from helexa.engine.kernels import choosing_triton  # not everyone has triton

            wanted = [(row, temperature, 0.0, 0.0) for row, temperature in self.masses]
            asked = [choosing_triton.Drawn(*one) for one in (*wanted, *self.draws)]
            both = choosing_triton.draw_by_kernel(self.rows, self.peaks, asked)
            masses, self.drawn = both[0, : len(self.masses)], both[1, len(self.masses) :]
            return [one for one in (masses, self.drawn) if len(one)]
        if self.masses:
            rows, temperatures = zip(*self.masses, strict=True)
            found.append(self._weights(rows, temperatures).sum(-1).sum(-1, dtype=torch.float64))
        if self.draws:
            rows, temperatures, min_p, numbers = zip(*self.draws, strict=True)
            weights = self._weights(rows, temperatures)
            weights.mul_(weights >= upload(min_p, device, torch.float32)[:, None, None])
            self.drawn = draw_on_device(weights, upload(numbers, device, torch.float64))
            found.append(self.drawn)
        return found

    def _weights(self, rows: Sequence[int], temperatures: Sequence[float]) -> Tensor:
        """exp((logit - peak) / temperature) of some rows, [M, N, 128], as `Blocks` has it."""
        device = self.rows.device
        at = upload(rows, device)
        factors = upload([math.log2(math.e) / t for t in temperatures], device, torch.float32)
        peaks = self.peaks.float().index_select(0, at)
        scaled: Tensor = self.rows.index_select(0, at) - peaks[:, None, None]
        return scaled.mul_(factors[:, None, None]).exp2_()

    def known(self, parts: list[Floats], logits: dict[int, dict[int, float]]) -> KnownBlocks:
        """The host's view, from what it has fetched of `compute`."""
        (peaks, best), *rest = parts
        tops: dict[int, tuple[Floats, Ints]] = {}
        if self.tops:
            values, ids = in_order(rest.pop(0).astype(np.float32), rest.pop(0).astype(np.int64))
            tops = {i: (values[at], ids[at]) for at, i in enumerate(sorted(self.tops))}
        masses = dict(zip(self.masses, rest.pop(0).tolist(), strict=True)) if self.masses else {}
        drawn = [int(token) for token in rest.pop(0)] if self.draws else []
        draws = {draw[0]: token for draw, token in zip(self.draws, drawn, strict=True)}
        firsts = [int(token) for token in best]
        found = self.rows, self.maxima, self.vocab_size, peaks.tolist(), firsts
        return KnownBlocks(*found, tops, masses, draws, logits)


def read_ahead(
    logits: Tensor, rows: Sequence[SampleRow], *, kernels: bool = False
) -> tuple[KnownBlocks, KnownBlocks | None, list[int]]:
    """Blocks of logits [R, V], of the rows that are changed, and which those are.

    ``kernels``: made by kernels of triton.
    """
    changed = [i for i, row in enumerate(rows) if has_changes(row)]
    raw, altered = Asked(logits.float(), kernels=kernels), None
    if changed:
        altered = Asked(changed_logits(logits, rows, changed), kernels=kernels)
    place = {i: at for at, i in enumerate(changed)}
    wanted = [i for i, row in enumerate(rows) if row.params.logprobs is not None]
    homes = [
        (altered, place[i]) if altered is not None and i in place else (raw, i)
        for i in range(len(rows))
    ]
    for (home, at), row in zip(homes, rows, strict=True):
        home.ask(at, row)
    for i in wanted:
        raw.ask_top(i, known(rows[i].params.logprobs) + MARGIN)
        raw.masses.append((i, 1.0))
    sets = [raw] if altered is None else [raw, altered]
    tensors = [one.compute() for one in sets]
    ids = [candidates(*homes[i]) for i in wanted]
    near = [raw.rows[i].view(-1).index_select(0, at) for i, at in zip(wanted, ids, strict=True)]
    *parts, ids_read, near_read = fetch([*tensors, ids, near])
    found = zip(wanted, ids_read, near_read, strict=True)
    kept = {
        i: dict(zip(map(int, tokens), values.tolist(), strict=True)) for i, tokens, values in found
    }
    view = [one.known(read, kept) for one, read in zip(sets, parts, strict=True)]
    return view[0], view[1] if len(view) > 1 else None, changed


def candidates(home: Asked, at: int) -> Tensor:
    """The ids of which one will be chosen for a row, unless more must be read."""
    ids = [home.best[at : at + 1]]
    if at in home.tops:
        ids.append(home.top_ids[sorted(home.tops).index(at)])
    for place, draw in enumerate(home.draws):
        if draw[0] == at:
            ids.append(home.drawn[place : place + 1])
    return torch.cat([some.long() for some in ids])


def fetch(groups: Sequence[Sequence[Tensor]]) -> list[list[Floats]]:
    """Tensors of a device as arrays of float64, which holds ids and logits exactly: one copy."""
    flat = [tensor for group in groups for tensor in group]
    whole = packed(groups).cpu().numpy()
    ends = np.cumsum([tensor.numel() for tensor in flat])[:-1]
    pieces = iter(np.split(whole, ends))
    return [[next(pieces).reshape(tensor.shape) for tensor in group] for group in groups]


def packed(groups: Sequence[Sequence[Tensor]]) -> Tensor:
    """What `fetch` copies, still on the device."""
    flat = [tensor.flatten().double() for group in groups for tensor in group]
    return torch.cat(flat) if len(flat) > 1 else flat[0]


def draw_on_device(weights: Tensor, numbers: Tensor) -> Tensor:
    """`Blocks.draw` of M rows: weights [M, N, 128] float32, numbers [M] float64 → ids [M]."""
    rows = torch.arange(len(weights), device=weights.device)
    sums = weights.sum(-1, dtype=torch.float64).cumsum(-1)
    target = numbers * sums[:, -1]
    block = falls_on(sums, target)
    before = torch.where(block > 0, sums[rows, (block - 1).clamp_(min=0)], 0.0)
    inside = weights[rows, block].double().cumsum(-1)
    return block * weights.shape[-1] + falls_on(inside, target - before)


def falls_on(sums: Tensor, target: Tensor) -> Tensor:
    """The first place of each row whose running sum is above its target, or the last that adds.

    Some place even for NaN: such rows get an error, but only when the host has heard of it.
    """
    last = torch.searchsorted(sums, sums[:, -1:].contiguous()).clamp_(max=sums.shape[1] - 1)
    return torch.minimum(torch.searchsorted(sums, target[:, None], right=True), last)[:, 0]
