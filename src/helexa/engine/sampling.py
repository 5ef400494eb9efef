"""From logits to tokens: one step of every sequence in a batch.

What a row gets depends on its logits, its params and what it has generated, never on the rows
beside it. The batch shares those passes over the vocabulary whose results are exact in any order
(maxima, selection); sums are made row by row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from helexa.engine.drawing import MARGIN, draw_open, draw_ranked, needs_ranking
from helexa.engine.logit_changes import SampleRow, changed_logits, has_changes, known
from helexa.engine.outputs import TokenLogprobs
from helexa.engine.params import SamplingParams
from helexa.engine.philox import uniforms
from helexa.engine.ranking import Blocks, Ranking, rankings
from helexa.engine.read_ahead import read_ahead
from helexa.errors import HelexaError, NumericalError

if TYPE_CHECKING:
    from helexa.engine.ahead.launched import Onward

__all__ = ["SampleRow", "Sampled", "Sampler", "health_record"]

NO_TOKEN = -1


@dataclass(frozen=True, slots=True)
class Sampled:
    """The token chosen for one row, or the reason there is none; then ``token_id`` is -1."""

    token_id: int
    logprob: TokenLogprobs | None = None
    error: HelexaError | None = None


class Sampler:
    """Chooses tokens for a vocabulary of ``vocab_size``; holds no state.

    ``reads_ahead``: also where reading logits costs nothing; a GPU's are always read so.
    ``kernels`` of triton do what they can of that (see `Numerics.fused_ops`).
    """

    def __init__(
        self, vocab_size: int, *, reads_ahead: bool = False, kernels: bool = False
    ) -> None:
        self.vocab_size = vocab_size
        self.reads_ahead = reads_ahead
        self.kernels = kernels

    def sample(
        self, logits: Tensor, rows: Sequence[SampleRow], onward: Onward | None = None
    ) -> list[Sampled]:
        """One token per row of logits [R, V] float32, which are left as they are.

        A row with NaN or +inf, or without a token it may choose, gets a NumericalError; the others
        do not notice. ``onward``, if any, is launched meanwhile if it can be, and may overwrite
        the logits. ValueError if the shape is not [len(rows), vocab_size].
        """
        if logits.shape != (len(rows), self.vocab_size):
            raise ValueError(
                f"logits are {list(logits.shape)}, expected [{len(rows)}, {self.vocab_size}]: "
                "one row for each sequence"
            )
        if not rows:
            return []
        raw, altered, changed = self._blocks(logits, rows, onward)
        sound = [i for i in range(len(rows)) if math.isfinite(raw.peaks[i])]
        chosen = _choose(raw, {i: rows[i] for i in sound if i not in changed})
        if altered is not None:
            places = {
                at: rows[i]
                for at, i in enumerate(changed)
                if i in sound and math.isfinite(altered.peaks[at])
            }
            chosen |= {changed[at]: token for at, token in _choose(altered, places).items()}
        logprobs = _logprobs(raw, rows, chosen)
        return [
            Sampled(chosen[i], logprobs.get(i)) if i in chosen else _refused(raw, i)
            for i in range(len(rows))
        ]

    def _blocks(
        self, logits: Tensor, rows: Sequence[SampleRow], onward: Onward | None
    ) -> tuple[Blocks, Blocks | None, list[int]]:
        """The logits, those of rows that change theirs if there are any, and which rows those are.

        From a GPU all of it is read in one go.
        """
        if self.reads_ahead or logits.device.type == "cuda":
            return read_ahead(logits, rows, kernels=self.kernels, onward=onward)
        changed = [i for i, row in enumerate(rows) if has_changes(row)]
        raw = Blocks.of(logits.float())
        return raw, Blocks.of(changed_logits(logits, rows, changed)) if changed else None, changed


def _refused(raw: Blocks, index: int) -> Sampled:
    if math.isnan(raw.peaks[index]) or raw.peaks[index] == math.inf:
        message = health_record(raw.rows[index].view(-1)[: raw.vocab_size])
        hint = (
            "if another dtype or device does not show it, report it with the model and the prompt"
        )
    else:
        message = f"none of {raw.vocab_size} tokens may be chosen: each is masked or at -inf"
        hint = "ban fewer tokens, or lower min_tokens"
    return Sampled(NO_TOKEN, error=NumericalError(message, hint=hint))


def health_record(logits: Tensor) -> str:
    """One line about a row of logits [V]: what is wrong, and its range where it is finite."""
    finite = logits[logits.isfinite()].double()
    low, high, mean = (
        (float(finite.min()), float(finite.max()), float(finite.mean()))
        if finite.numel()
        else (math.nan, math.nan, math.nan)
    )
    return (
        f"logits unhealthy: len {logits.numel()} nan {int(logits.isnan().sum())} "
        f"+inf {int(logits.isposinf().sum())} -inf {int(logits.isneginf().sum())} "
        f"negative {int((finite < 0).sum())} min {low:.6g} max {high:.6g} mean {mean:.6g}"
    )


def _choose(blocks: Blocks, rows: dict[int, SampleRow]) -> dict[int, int]:
    """Token ids of some rows of ``blocks``: the best one if greedy, else a draw."""
    drawn = [i for i, row in rows.items() if known(row.params.temperature) > 0.0]
    chosen: dict[int, int] = {}
    if len(drawn) < len(rows):
        best = blocks.best
        chosen = {i: best[i] for i in rows}
    numbers = uniforms([(known(rows[i].params.seed), len(rows[i].generated)) for i in drawn])
    ranked: list[int] = []
    asked: list[tuple[SamplingParams, float]] = []
    for i, number in zip(drawn, numbers, strict=True):
        params = rows[i].params
        if needs_ranking(params):
            ranked.append(i)
            asked.append((params, number))
        else:
            chosen[i] = draw_open(blocks, i, params, number)
    if ranked:
        chosen |= zip(ranked, draw_ranked(blocks, ranked, asked), strict=True)
    return chosen


def _logprobs(
    raw: Blocks, rows: Sequence[SampleRow], chosen: dict[int, int]
) -> dict[int, TokenLogprobs]:
    """What the model itself gave the chosen token and the best ones: log-softmax of the raw row."""
    wanted = {i: n for i in chosen if (n := rows[i].params.logprobs) is not None}
    if not wanted:
        return {}
    ranked = rankings(raw, list(wanted), [n + MARGIN for n in wanted.values()])
    return {
        i: _token_logprobs(ranking, chosen[i], n)
        for (i, n), ranking in zip(wanted.items(), ranked, strict=True)
    }


def _token_logprobs(ranking: Ranking, token_id: int, count: int) -> TokenLogprobs:
    while len(ranking) < count and not ranking.whole:
        ranking.extend()
    log_mass = ranking.peak + math.log(ranking.mass(1.0))
    best = zip(ranking.ids[:count].tolist(), ranking.values[:count].tolist(), strict=True)
    return TokenLogprobs(
        token_id=token_id,
        logprob=ranking.logit(token_id) - log_mass,
        top=tuple((i, value - log_mass) for i, value in best if value > -math.inf),
    )
