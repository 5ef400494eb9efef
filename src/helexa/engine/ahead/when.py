"""When a step is launched ahead of the last one's tokens: where it will probably be used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from helexa.engine.ahead.launched import AheadRunner
from helexa.engine.cache.pages import Pages
from helexa.engine.drafting.drafts import MOST_ROWS, Drafts

if TYPE_CHECKING:
    from helexa.engine.cache.state_pages import StatePages
    from helexa.engine.execution import StepRunner
    from helexa.engine.scheduler import Part


class Going(NamedTuple):
    """What is known of a sequence in a step before that has run.

    ``computes`` counts the tokens that are computed, those of a draft among them; ``left`` the
    tokens that may follow the one this step draws; ``drafts``: it may have drafts.
    """

    computes: int
    samples: bool
    masked: bool
    drafts: bool
    left: int


def going_on(rows: Sequence[Going], *, alone: bool) -> list[int]:
    """The rows that a step launched ahead should have: none where it would probably be dropped.

    ``alone``: nothing else runs or waits, so that the next step has these rows and no prompt. Every
    row computes one token and draws the next, and none may have a draft or a mask then, which the
    host makes of that token. Those that end for their length are left out.
    """
    found = [at for at, row in enumerate(rows) if row.left > 0]
    usual = all(row.computes == 1 and row.samples and not row.masked for row in rows)
    drafts = len(found) <= MOST_ROWS and any(row.drafts for row in rows)
    return found if alone and usual and not drafts else []


class LookAhead:
    """Says of each step which of its rows the runner may go on with; never any if it cannot."""

    def __init__(self, runner: StepRunner, pages: Pages | StatePages, drafts: Drafts) -> None:
        able = isinstance(runner, AheadRunner) and runner.looks_ahead
        self._pages = pages if able and isinstance(pages, Pages) else None  # states only go on
        self._drafts = drafts

    def rows(self, parts: Sequence[Part], *, alone: bool) -> list[int]:
        """The rows that go on, which then have a page for the token that is drawn now."""
        pages = self._pages
        if pages is None:
            return []
        seqs = [part.sequence for part in parts]
        rows = [
            Going(
                part.length + len(part.draft),
                part.samples,
                seq.mask is not None,
                self._drafts.allows(seq),
                seq.max_new - len(seq.generated) - 1,
            )
            for part, seq in zip(parts, seqs, strict=True)
        ]
        found = going_on(rows, alone=alone)
        # What is taken here would be taken in the next step; nobody loses a page for it.
        return found if all(pages.stretch(seqs[at], 1, len(rows)) for at in found) else []
