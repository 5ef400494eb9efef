"""All that a gateway knows of keys and budgets: its own first, then an authority's."""

from __future__ import annotations

from collections.abc import Mapping

import anyio

from helexa.gateway.entitlements.ledger import Ledger
from helexa.gateway.entitlements.provider import Principal, Reservation, Snapshot, Source
from helexa.gateway.entitlements.served import Reporter
from helexa.gateway.entitlements.telling import Teller

DRAIN_REPORT_S = 10.0


class Chain:
    """Sources by name, in the order in which they are asked for a key.

    Only a key that one does not know is looked for at the next. Whoever knew the key keeps its
    budget: the principal remembers that.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        ledger: Ledger,
        reporter: Reporter | None = None,
        teller: Teller | None = None,
    ) -> None:
        self._sources = dict(sources)
        self.reporter = reporter
        self._ledger = ledger
        self._teller = teller

    async def resolve(self, key: str) -> Principal | None:
        """Whose key this is; None if nobody's. Raises AuthorityUnavailable."""
        for source in self._sources.values():
            if principal := await source.resolve(key):
                return principal
        return None

    async def reserve(self, principal: Principal, tokens: int) -> Reservation:
        """Set tokens aside. Raises RateLimited, InsufficientQuota, LedgerUnavailable."""
        return await self._sources[principal.backend].reserve(principal, tokens)

    async def settle(self, reservation: Reservation, actual: int) -> None:
        """Charge and count so many tokens."""
        await self._sources[reservation.principal.backend].settle(reservation, actual)

    async def release(self, reservation: Reservation) -> None:
        """Charge nothing."""
        await self._sources[reservation.principal.backend].release(reservation)

    async def snapshot(self, principal: Principal) -> Snapshot:
        """The budget. Raises LedgerUnavailable, AuthorityUnavailable."""
        return await self._sources[principal.backend].snapshot(principal)

    async def keep(self) -> None:
        """Background work: runs until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._ledger.keep)
            if self.reporter is not None:
                tasks.start_soon(self.reporter.keep)

    async def flush(self) -> None:
        """Write what is owed, tell what is to be told, report what was served; in bounded time.

        May be called while the caller is being cancelled.
        """
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._ledger.flush)
                if self._teller is not None:
                    tasks.start_soon(self._teller.flush)
            if self.reporter is not None:
                with anyio.move_on_after(DRAIN_REPORT_S):
                    await self.reporter.flush()
