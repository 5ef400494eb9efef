"""What a ledger's store can do: rows read and written inside transactions, nothing decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Literal, NamedTuple, Protocol

from helexa.gateway.entitlements.budget import Account

SCHEMA_VERSION = 1

Outcome = Literal["committed", "aborted", "running", "unknown"]


class StoreFailed(Exception):
    """The store did not do it: it is locked, full, gone. What was begun is undone."""


class CommitInDoubt(StoreFailed):
    """The store was lost during a commit: ``mark`` is what to ask it about later."""

    def __init__(self, detail: str, mark: str) -> None:
        super().__init__(detail)
        self.mark = mark


class NewerSchema(StoreFailed):
    """The store was made by a later version of this program."""

    def __init__(self, version: int | None) -> None:
        super().__init__(
            f"its schema_version is {version}, this program knows {SCHEMA_VERSION}: "
            "a later version made it"
        )


class Held(NamedTuple):
    """A reservation as it is stored: whose it is, and when anybody may free it."""

    id: str
    account_id: str
    key_id: str
    amount: int
    gateway: str
    expires_ms: int


class Usage(NamedTuple):
    """For whom, and on which day (UTC, ``YYYY-MM-DD``), tokens were served."""

    account_id: str
    key_id: str
    period: str


class Book(Protocol):
    """One connection to a store, used by one thread.

    Everything but `outcome` and `close` is called inside `transaction`, whose end raises
    StoreFailed if anything of it was not written.
    """

    def transaction(self) -> AbstractContextManager[None]:
        """All or nothing, and nobody else writes to the accounts that are read in it."""
        ...

    def accounts(self, key_ids: Sequence[str]) -> dict[str, Account]:
        """The accounts of these keys (sorted), locked; those that do not exist are left out."""
        ...

    def enter(self, accounts: Mapping[str, Account]) -> None:
        """Write these accounts."""
        ...

    def hold(self, rows: Sequence[Held]) -> None:
        """Add reservations."""
        ...

    def free(self, ids: Sequence[str], expired_ms: int | None = None) -> set[str]:
        """Delete reservations, or those of them that expired by then; which were deleted."""
        ...

    def expired(self, now_ms: int) -> list[Held]:
        """Reservations whose time is over."""
        ...

    def extend(self, ids: Sequence[str], expires_ms: int) -> None:
        """Keep reservations until then."""
        ...

    def serve(self, tokens: Mapping[Usage, int]) -> None:
        """Add served tokens."""
        ...

    def served(self) -> dict[Usage, int]:
        """All served tokens."""
        ...

    def prune(self, period: str) -> None:
        """Forget tokens that were served before this day."""
        ...

    def outcome(self, mark: str) -> Outcome:
        """What became of a transaction whose commit was in doubt. Raises StoreFailed."""
        ...

    def close(self) -> None:
        """Let go of the store; never raises."""
        ...
