"""Runs a step: from what each sequence computes to the tokens that were drawn for it."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Protocol

from torch import Tensor

from helexa.engine.ahead.launched import Onward
from helexa.engine.allocation import refusals_as_memory_errors
from helexa.engine.batch import Part as Work
from helexa.engine.cache.copies import Copy
from helexa.engine.faults import own_error
from helexa.engine.logit_changes import allowing
from helexa.engine.sampling import NO_TOKEN, Sampled, SampleRow
from helexa.engine.scheduler import Part
from helexa.engine.sequence import TOKEN_TYPE
from helexa.engine.sequence import Sequence as Row
from helexa.errors import HelexaError


class StepRunner(Protocol):
    """What executes a step; ``helexa.engine.runner.Runner`` is one."""

    @property
    def model_s(self) -> float:
        """How long the model alone took in the last run, in seconds."""
        ...

    @property
    def hidden(self) -> Tensor:
        """The hidden states [R, hidden] that the logits of the last run were made of."""
        ...

    def run(self, parts: Sequence[Work]) -> Tensor:
        """Compute these tokens: logits [R, V] of those that want them."""
        ...

    def copy(self, copies: Sequence[Copy]) -> None:
        """Copy pages and states, one after the other."""
        ...


class TokenSampler(Protocol):
    """What chooses tokens; ``helexa.engine.sampling.Sampler`` is one."""

    def sample(
        self, logits: Tensor, rows: Sequence[SampleRow], onward: Onward | None
    ) -> list[Sampled]: ...


class Execution:
    """A runner and a sampler, and what the latter needs of each sequence.

    ``model_s`` is how long the model took in the last step, in seconds.
    """

    def __init__(self, runner: StepRunner, sampler: TokenSampler, vocab_size: int) -> None:
        self.model_s = 0.0
        self.runner = runner
        self.sampler = sampler
        self._vocab_size = vocab_size
        self._rows: dict[int, SampleRow] = {}

    def run(
        self, parts: Sequence[Part], copies: Sequence[Copy], ahead: Sequence[int] = ()
    ) -> list[list[Sampled]]:
        """Make the copies, run the model, draw for each part that samples.

        A part that samples gets a draw for its next token, and one more for each token of its
        draft: what would be drawn if the draft is right up to there. Others get none. ``ahead`` are
        parts with which the runner may go on meanwhile (see `ahead.when.LookAhead`).
        """
        if copies:
            self.runner.copy(copies)
        wanted = [1 + len(part.draft) if part.samples else 0 for part in parts]
        rows = self._sample_rows(parts, wanted)
        works = list(map(_work, parts, wanted))
        logits = self.runner.run(works)
        onward = Onward.after(self.runner, works, ahead)
        refused = self._constrain(parts, wanted, rows)  # while an accelerator computes the logits
        with refusals_as_memory_errors():
            sampled = self.sampler.sample(logits, rows, onward) if rows else []
        for at, error in refused.items():
            sampled[at] = Sampled(NO_TOKEN, error=error)
        self.model_s = self.runner.model_s
        drawn = iter(sampled)
        return [list(islice(drawn, count)) for count in wanted]

    def drop(self, seq: Row) -> None:
        """A sequence is over."""
        self._rows.pop(seq.id, None)

    def _sample_rows(self, parts: Sequence[Part], wanted: Sequence[int]) -> list[SampleRow]:
        """What the sampler needs at each position that it samples, ``wanted`` of each part."""
        rows = []
        for part, count in zip(parts, wanted, strict=True):
            if count:
                rows.append(self._first_row(part.sequence))
            if count > 1:
                rows += self._drafted_rows(part, rows[-1])
        return rows

    def _drafted_rows(self, part: Part, row: SampleRow) -> Iterator[SampleRow]:
        """What it needs behind each token of a draft; ``row`` is what it needs before."""
        seq = part.sequence
        said = seq.generated
        for token_id in part.draft:
            said = [*said, token_id]
            early = len(said) < seq.params.min_tokens
            yield replace(row, generated=said, blocked=seq.ends if early else ())

    def _first_row(self, seq: Row) -> SampleRow:
        """The row of a sequence's next token; made anew only when end tokens become allowed."""
        row = self._rows.get(seq.id)
        early = len(seq.generated) < seq.params.min_tokens
        if row is None or bool(row.blocked) is not (early and bool(seq.ends)):
            row = SampleRow(seq.params, seq.generated, seq.ends if early else ())
            self._rows[seq.id] = row
        return row

    def _constrain(
        self, parts: Sequence[Part], wanted: Sequence[int], rows: list[SampleRow]
    ) -> dict[int, HelexaError]:
        """Give each row that has a mask its allowed tokens, in place; errors by row.

        Sequences with a mask have no drafts: they are masked at one position.
        """
        refused: dict[int, HelexaError] = {}
        at = 0
        for part, count in zip(parts, wanted, strict=True):
            if count and part.sequence.mask is not None:
                try:
                    allowed = part.sequence.mask.fill()
                    rows[at] = allowing(rows[at], allowed, self._vocab_size)
                except BaseException as error:  # whatever a library makes of it: no other row's
                    refused[at] = own_error(error)
            at += count
        return refused


def _work(part: Part, wanted: int) -> Work:
    """What the runner needs to know of a part that is sampled at so many positions."""
    seq = part.sequence
    tokens = seq.tokens[seq.computed : seq.computed + part.length]
    if part.draft:
        tokens = tokens + array(TOKEN_TYPE, part.draft)
    state = seq.state if seq.fork is None else seq.fork
    return Work(tokens, seq.computed, seq.blocks, wanted, state)
