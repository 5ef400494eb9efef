"""Everything that choosing tokens will ask of logits on a GPU, in a single copy to the host.

Each read from a device waits for all that it was told to do. So what the sampler probably asks for
is computed there first, for all rows, and then fetched at once; what it asks for beyond that, such
as the many tokens of a flat distribution, it reads as it would without this.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from helexa.engine.ahead.guessing import guesses
from helexa.engine.download import Download, fetch
from helexa.engine.drawing import MARGIN, divisor, first_read, needs_ranking
from helexa.engine.logit_changes import SampleRow, changed_logits, has_changes, known
from helexa.engine.philox import uniform
from helexa.engine.ranking import Blocks, Few, Floats, Ints, best_of, by_id, cut, in_order
from helexa.engine.upload import upload

if TYPE_CHECKING:
    from helexa.engine.ahead.launched import Onward


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
        self.top_values = self.top_ids = self.drawn = self.weighed = torch.empty(0)

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
            self.top_values, self.top_ids = plain.unordered_top(sorted(self.tops), count)
            found += [self.top_values, self.top_ids]
        return found + self._weighed()

    def _weighed(self) -> list[Tensor]:
        """Masses and drawn ids; by kernels, both of each, those of the masses first."""
        found, device = [], self.rows.device
        if self.kernels and (self.masses or self.draws):
            from helexa.engine.kernels import choosing_triton  # not everyone has triton

            wanted = [(row, temperature, 0.0, 0.0) for row, temperature in self.masses]
            asked = [choosing_triton.Drawn(*one) for one in (*wanted, *self.draws)]
            both = choosing_triton.draw_by_kernel(self.rows, self.peaks, asked)
            self.weighed, self.drawn = both[0, : len(self.masses)], both[1, len(self.masses) :]
            return [one for one in (self.weighed, self.drawn) if len(one)]
        if self.masses:
            rows, temperatures = zip(*self.masses, strict=True)
            weights = self._weights(rows, temperatures)
            self.weighed = weights.sum(-1).sum(-1, dtype=torch.float64)
            found.append(self.weighed)
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

    def keep(self, logits: Tensor) -> None:
        """Part with the logits these rows are of, which something else is about to overwrite."""
        if self.rows.data_ptr() == logits.data_ptr():
            self.rows = self.rows.clone()

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


class Reading:
    """All that is asked of the logits [R, V] of some rows; it is on the device until it is read."""

    def __init__(self, logits: Tensor, rows: Sequence[SampleRow], *, kernels: bool) -> None:
        changed = [i for i, row in enumerate(rows) if has_changes(row)]
        raw, altered = Asked(logits.float(), kernels=kernels), None
        if changed:
            altered = Asked(changed_logits(logits, rows, changed), kernels=kernels)
        place = {i: at for at, i in enumerate(changed)}
        homes = [
            (altered, place[i]) if altered is not None and i in place else (raw, i)
            for i in range(len(rows))
        ]
        for (home, at), row in zip(homes, rows, strict=True):
            home.ask(at, row)
        self._wanted = [i for i, row in enumerate(rows) if row.params.logprobs is not None]
        for i in self._wanted:
            raw.ask_top(i, known(rows[i].params.logprobs) + MARGIN)
            raw.masses.append((i, 1.0))
        self.changed = changed
        self._logits, self._rows, self._homes = logits, rows, homes
        self._sets = [raw] if altered is None else [raw, altered]
        found = [one.compute() for one in self._sets]
        ids = [candidates(*homes[i]) for i in self._wanted]
        pairs = zip(self._wanted, ids, strict=True)
        near = [raw.rows[i].view(-1).index_select(0, at) for i, at in pairs]
        self._found = [*found, ids, near]

    def read(self) -> list[KnownBlocks]:
        """The host's view of the logits, and of those that were changed if there are any."""
        return self._views(fetch(self._found))

    def read_and_go_on(self, onward: Onward) -> list[KnownBlocks]:
        """As `read`; meanwhile what comes next is launched, if the device can guess the tokens.

        That may overwrite the logits.
        """
        guessed = guesses([(*self._homes[i], self._rows[i]) for i in onward.rows])
        if guessed is None:
            return self.read()
        coming = Download([*self._found, [guessed]])
        with suppress(torch.OutOfMemoryError):  # then it is launched when its turn comes
            self._sets[0].keep(self._logits)
            onward.launch(guessed)
        *arrays, (ids,) = coming.wait()
        onward.told([int(token) for token in ids])
        return self._views(arrays)

    def _views(self, arrays: list[list[Floats]]) -> list[KnownBlocks]:
        *parts, ids, near = arrays
        kept = {
            i: dict(zip(map(int, tokens), values.tolist(), strict=True))
            for i, tokens, values in zip(self._wanted, ids, near, strict=True)
        }
        return [one.known(read, kept) for one, read in zip(self._sets, parts, strict=True)]


def read_ahead(
    logits: Tensor,
    rows: Sequence[SampleRow],
    *,
    kernels: bool = False,
    onward: Onward | None = None,
) -> tuple[KnownBlocks, KnownBlocks | None, list[int]]:
    """Blocks of logits [R, V], of the rows that are changed, and which those are.

    ``kernels``: made by kernels of triton. ``onward`` is launched as soon as the device was told
    all that is asked of these logits; the host waits for that alone.
    """
    reading = Reading(logits, rows, kernels=kernels)
    views = reading.read() if onward is None else reading.read_and_go_on(onward)
    return views[0], views[1] if len(views) > 1 else None, reading.changed


def candidates(home: Asked, at: int) -> Tensor:
    """The ids of which one will be chosen for a row, unless more must be read."""
    ids = [home.best[at : at + 1]]
    if at in home.tops:
        ids.append(home.top_ids[sorted(home.tops).index(at)])
    for place, draw in enumerate(home.draws):
        if draw[0] == at:
            ids.append(home.drawn[place : place + 1])
    return torch.cat([some.long() for some in ids])


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
