"""A decode step that is launched while the host still waits for the tokens of the one before.

Else a GPU has nothing to do while the host reads, draws, hands over and plans. So it guesses the
tokens itself (`guessing.py`) and goes on with them. Like a draft, that is checked: the host draws
as it always does, and the step that was launched counts only if it is what the host then asks
for, token by token and page by page. Whatever else happens costs no more than the launched step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from helexa.engine.batch import Computed, Part
from helexa.engine.upload import upload

if TYPE_CHECKING:
    from torch import Tensor

    from helexa.engine.execution import StepRunner


@runtime_checkable
class AheadRunner(Protocol):
    """A runner that can launch a step before its tokens are known: `runner.Runner` is one."""

    @property
    def looks_ahead(self) -> bool:
        """Whether it ever does."""
        ...

    def has_recorded(self, parts: Sequence[Part]) -> bool:
        """Whether a step of these is recorded, so that launching it takes no time."""
        ...

    def launch(self, parts: Sequence[Part], ids: Tensor) -> Launched | None:
        """Launch a step of one token each, ``ids`` [S] int64 on the device."""
        ...


@dataclass(slots=True, eq=False)
class Launched:
    """A step that was launched before its tokens were known: S parts, whose tokens mean nothing.

    ``ids`` [S] are what the device took for these, None until the host has read that. ``seconds``
    is how long the launch took the host; ``tables`` are the pages that it reads and writes.
    """

    parts: Sequence[Part]
    computed: Computed
    seconds: float
    tables: list[list[int]]
    ids: list[int] | None = None

    @classmethod
    def of(cls, parts: Sequence[Part], size: int, computed: Computed, seconds: float) -> Launched:
        """Tables are copied: what follows may give a sequence other pages."""
        tables = [list(part.blocks[: part.context // size + 1]) for part in parts]
        return cls(parts, computed, seconds, tables)

    def rows(self, parts: Sequence[Part]) -> list[int] | None:
        """Which of its rows these parts are, in their order; None if any part is not here."""
        found: list[int] = []
        at = 0
        for part in parts:
            while at < len(self.parts) and not self._is(at, part):
                at += 1
            if at == len(self.parts):
                return None
            found.append(at)
            at += 1
        return found or None

    def rows_of(self, rows: list[int]) -> Computed:
        """What was computed of some rows, as the next step finds it or a copy."""
        if rows == list(range(len(rows))):
            return self.computed.first(len(rows))
        where = upload(rows, self.computed.logits.device)
        return Computed(*(made.index_select(0, where) for made in self.computed))

    def _is(self, at: int, part: Part) -> bool:
        mine, table = self.parts[at], self.tables[at]
        return (
            self.ids is not None
            and len(part.tokens) == 1
            and part.tokens[0] == self.ids[at]
            and (part.context, part.state) == (mine.context, mine.state)
            and part.want_logits == mine.want_logits
            and list(part.blocks[: len(table)]) == table
        )


class Onward:
    """The step behind the one that is sampled: launched by the sampler, as soon as it can guess.

    ``rows`` are those of the sampled step that go on.
    """

    def __init__(self, runner: AheadRunner, parts: Sequence[Part], rows: Sequence[int]) -> None:
        self.rows = rows
        self._runner = runner
        self._parts = parts
        self._launched: Launched | None = None

    @classmethod
    def after(cls, runner: StepRunner, parts: Sequence[Part], rows: Sequence[int]) -> Onward | None:
        """Behind a step of these parts of a token each; None if that is not to be launched."""
        if not rows or not isinstance(runner, AheadRunner):
            return None
        some = [parts[at] for at in rows]
        following = [Part((0,), one.context + 1, one.blocks, 1, one.state) for one in some]
        return cls(runner, following, rows) if runner.has_recorded(following) else None

    def launch(self, ids: Tensor) -> None:
        """Go on with these tokens, [len(rows)] int64 on the device."""
        self._launched = self._runner.launch(self._parts, ids)

    def told(self, ids: list[int]) -> None:
        """The host has read which tokens these were."""
        if self._launched is not None:
            self._launched.ids = ids
