"""A ledger that lasts as long as its process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

from helexa.gateway.entitlements.book import Held, Outcome, Usage
from helexa.gateway.entitlements.budget import Account


class MemoryBook:
    """Rows in dictionaries; nothing in it fails, so nothing is ever undone."""

    def __init__(self) -> None:
        self._accounts: dict[str, Account] = {}
        self._held: dict[str, Held] = {}
        self._served: Counter[Usage] = Counter()

    def transaction(self) -> AbstractContextManager[None]:
        """Nobody else has this book."""
        return nullcontext()

    def accounts(self, key_ids: Sequence[str]) -> dict[str, Account]:
        """The accounts of these keys."""
        found = self._accounts
        return {key: found[key] for key in key_ids if key in found}

    def enter(self, accounts: Mapping[str, Account]) -> None:
        """Keep these accounts."""
        self._accounts.update(accounts)

    def hold(self, rows: Sequence[Held]) -> None:
        """Add reservations."""
        self._held.update((row.id, row) for row in rows)

    def free(self, ids: Sequence[str], expired_ms: int | None = None) -> set[str]:
        """Delete reservations; nobody has extended them meanwhile."""
        return {id for id in ids if self._held.pop(id, None) is not None}

    def expired(self, now_ms: int) -> list[Held]:
        """Reservations whose time is over."""
        return [row for row in self._held.values() if row.expires_ms <= now_ms]

    def extend(self, ids: Sequence[str], expires_ms: int) -> None:
        """Keep reservations until then."""
        for id in ids:
            if row := self._held.get(id):
                self._held[id] = row._replace(expires_ms=expires_ms)

    def serve(self, tokens: Mapping[Usage, int]) -> None:
        """Add served tokens."""
        self._served.update(tokens)

    def served(self) -> dict[Usage, int]:
        """All served tokens."""
        return dict(self._served)

    def prune(self, period: str) -> None:
        """Forget tokens that were served before this day."""
        for usage in [usage for usage in self._served if usage.period < period]:
            del self._served[usage]

    def outcome(self, mark: str) -> Outcome:
        """There are no doubts here."""
        return "unknown"

    def close(self) -> None:
        """Nothing to let go of."""
