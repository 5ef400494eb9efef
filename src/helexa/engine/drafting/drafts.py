"""Which rows of a step get a draft, and what became of it."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Items
from typing import Final

from torch import Tensor

from helexa.engine.cache.pages import Pages
from helexa.engine.cache.state_pages import StatePages
from helexa.engine.config import EngineConfig
from helexa.engine.drafting.costs import StepCosts
from helexa.engine.drafting.drafter import Drafter, HiddenDrafter
from helexa.engine.drafting.pace import draft_length
from helexa.engine.outputs import DraftCounts
from helexa.engine.sampling import Sampled
from helexa.engine.scheduler import Part
from helexa.engine.sequence import Sequence

MOST_ROWS: Final = 4
"""With more sequences in a step its time goes into arithmetic, of which drafts need more."""


class Drafts:
    """Adds drafts to steps and learns from them. They change the time a step takes, nothing else.

    A sequence draws with its own random numbers, one for each index of its answer. So each position
    of a draft is drawn as it would be without it, and the draft is right as far as it is what was
    drawn: nothing is accepted or rejected by chance, and an answer is the same with any drafts.
    Source of the idea: Leviathan, Kalman, Matias, arXiv:2211.17192.
    """

    def __init__(
        self,
        drafter: Drafter,
        pages: Pages | StatePages,
        config: EngineConfig,
        clock: Callable[[], float],
    ) -> None:
        self.counts = DraftCounts()
        self._clock = clock
        self._drafter = drafter
        self._pages = pages
        self._redone = isinstance(pages, StatePages)
        self._most = config.draft_len
        self._reader = drafter if self._most and isinstance(drafter, HiddenDrafter) else None
        self._by_default = config.drafter is not None
        self._costs = StepCosts()
        self._cost: float | None = None  # of all drafts of the last step, in plain tokens
        self._guesses: dict[int, tuple[int, ...]] = {}  # sequence → what it may draw, or nothing
        self._hidden: dict[int, tuple[Sequence, Tensor]] = {}  # of the last step, to be handed on

    def add(self, parts: list[Part]) -> list[Part]:
        """The parts of a step, those that may with a draft; prompts are not kept waiting by any."""
        self._hand_on()
        rows = len(parts)
        self._guesses.clear()
        if not self._most or rows > MOST_ROWS or any(part.sequence.prefilling for part in parts):
            return parts
        may = [self._may(part) for part in parts]
        watched = sum(may)
        return [
            self._drafted(part, rows, watched) if its else part
            for part, its in zip(parts, may, strict=True)
        ]

    def settle(
        self, parts: list[Part], drawn: list[list[Sampled]], hidden: Tensor
    ) -> list[tuple[Part, list[Sampled]]]:
        """After a step: each part as far as it counts, with the draws that are to be taken.

        ``hidden`` has a row for each draw, in order, from which that was drawn.
        """
        rows = len(parts)
        drafted = sum(len(part.draft) for part in parts)
        each = None if self._cost is None or not drafted else self._cost / drafted
        settled = [
            self._settle(part, draws, rows, each) if draws else (part, draws)
            for part, draws in zip(parts, drawn, strict=True)
        ]
        if self._reader is not None:
            of_parts = hidden.split_with_sizes([len(draws) for draws in drawn])
            for (part, taken), states in zip(settled, of_parts, strict=True):
                if taken and self._allowed(part.sequence):
                    self._hidden[part.sequence.id] = part.sequence, states[: len(taken)]
        return settled

    def learn(self, parts: Items[Part], seconds: float) -> None:
        """Note how long a step has taken, if only rows with a token or a draft were in it."""
        self._cost = None
        if not self._most or len(parts) > MOST_ROWS:  # of which none has a draft
            return
        drafted = 0
        for part in parts:  # it runs in every step, so that a generator or two would show
            if part.length != 1 or part.sequence.prefilling:
                return
            drafted += len(part.draft)
        self._cost = self._costs.add(len(parts), drafted, seconds)

    def allows(self, seq: Sequence) -> bool:
        """Whether a sequence may ever have a draft."""
        return self._most > 0 and self._allowed(seq)

    def drop(self, seq: Sequence) -> None:
        """A sequence is over."""
        self._hidden.pop(seq.id, None)
        self._drafter.drop(seq)

    def _hand_on(self) -> None:
        """Give the drafter what the last step has left for it, whose tokens are appended now."""
        while self._reader is not None and self._hidden:
            _, (seq, states) = self._hidden.popitem()
            self._reader.take_hidden(seq, states)

    def _settle(
        self, part: Part, drawn: list[Sampled], rows: int, each: float | None
    ) -> tuple[Part, list[Sampled]]:
        """Taken are the draws that the draft had right, and the next one.

        One that went wrong waits for a step in which it is the first. A drafted token has cost
        ``each``, None if that was not to be seen.
        """
        seq = part.sequence
        if not self._allowed(seq):
            return part, drawn
        guess = self._guesses.get(seq.id)
        if guess is None:
            seq.unwatched += 1
            return part, drawn
        seq.pace = seq.pace.stepped(1 + seq.unwatched)
        seq.unwatched = 0
        if not part.draft:
            seq.pace = seq.pace.watched(len(guess), agreeing(guess, drawn))
            return part, drawn
        drafted, right = len(part.draft), agreeing(part.draft, drawn)
        taken = drawn[: right + 1]
        if right and taken[-1].error is not None:
            taken.pop()
        counts = self._pages.settle(seq, whole=len(taken) > drafted)
        costs = self._costs.of_drafts(rows, drafted)
        cost = costs[drafted] if each is None else each * drafted
        again = 0.0 if counts else costs[len(taken)]
        seq.pace = seq.pace.settled(drafted, right, cost + again)
        kept = before_end(seq, taken[:right])
        self.counts = self.counts.plus(drafted, kept)
        seq.drafts = (seq.drafts or DraftCounts()).plus(drafted, kept)
        return (part if counts else part._replace(length=0)), taken

    def _may(self, part: Part) -> bool:
        """Whether a part is a row that draws its next token, with nothing but that to compute."""
        return part.length == 1 and part.samples and self._allowed(part.sequence)

    def _allowed(self, seq: Sequence) -> bool:
        """Whether a sequence may have drafts.

        What constrains an answer is told of one token at a time.
        """
        wanted = seq.params.speculative
        return (self._by_default if wanted is None else wanted) and seq.mask is None

    def _drafted(self, part: Part, rows: int, watched: int) -> Part:
        """With tokens that may follow, as many as promise to pay; an answer's last needs none.

        Where none do, a guess is made all the same, to see what would have come of it; less often
        where none has for a while, or could be paid.
        """
        seq = part.sequence
        most = min(self._most, seq.max_new - len(seq.generated) - 1)
        if most < 1:
            return part
        costs = self._costs.of_drafts(rows, most)
        cheapest = costs[1] if len(costs) > 1 else 0.0
        if seq.pace.rests(seq.unwatched, self._costs.rest(rows, watched), cheapest):
            return part
        begin = self._clock()
        length = draft_length(seq.pace, costs, redone=self._redone)
        guessed = self._drafter.propose(seq, max(1, length))
        self._guesses[seq.id] = tuple(guessed[:1])
        if not length:
            self._costs.looked(rows, self._clock() - begin)
            return part
        count = self._pages.stretch(seq, min(length, len(guessed)), rows) if guessed else 0
        return part._replace(draft=tuple(guessed[:count])) if count else part


def before_end(seq: Sequence, drawn: Items[Sampled]) -> int:
    """How many of these an answer gets: those in front of a token that ends it."""
    ends = (index for index, sampled in enumerate(drawn) if sampled.token_id in seq.ends)
    return next(ends, len(drawn))


def agreeing(draft: Items[int], drawn: Items[Sampled]) -> int:
    """How many tokens of a draft are what was drawn, up to the first that is not."""
    for index, token_id in enumerate(draft):
        if drawn[index].token_id != token_id:
            return index
    return len(draft)
