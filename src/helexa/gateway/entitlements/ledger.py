"""The ledger: reservations, settlements and served tokens, whatever store they are kept in."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import count

import anyio

from helexa.gateway.entitlements.book import Book, StoreFailed, Usage
from helexa.gateway.entitlements.budget import Account, Budget, within
from helexa.gateway.entitlements.clerk import Habits
from helexa.gateway.entitlements.desk import Counter, Desk, Office
from helexa.gateway.entitlements.memory import MemoryBook
from helexa.gateway.entitlements.posting import Lease, Reserve, Serve, Settle, sweep
from helexa.gateway.entitlements.provider import Principal, Reservation, exhausted
from helexa.gateway.refusals import LedgerUnavailable

KEEP_USAGE = timedelta(days=35)
DAY_S = 86400
LOOK_S = 1.0
MOST_EXTENDED = 1000

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Timing:
    """How patient a ledger is, in seconds.

    ``tick_s`` is between two looks at what has expired, ``live_s`` how long a reservation is held
    that nobody extends, ``retry_s`` between two tries to write what could not be written,
    ``flush_s`` how long that may take at the end, ``answer_s`` how long a request waits at most.
    """

    tick_s: float = 60.0
    live_s: float = 900.0
    retry_s: float = 5.0
    flush_s: float = 5.0
    answer_s: float = 15.0


class Ledger:
    """Who has set aside and spent how much, for all gateways that share a store.

    A reservation is written before `reserve` returns; a settlement is written soon after `settle`
    returns, or as soon as the store takes it again. ``clock`` is wall time in seconds, the same for
    all gateways of a store, give or take some seconds.
    """

    def __init__(
        self,
        open_book: Callable[[], Book],
        *,
        timing: Timing | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._timing = timing or Timing()
        self._clock = clock
        # Ids that grow keep the rows of one gateway side by side, on few pages.
        self._gateway = secrets.token_hex(8)
        self._numbers = count()
        self._open: dict[str, None] = {}
        lease = Lease(self._gateway, int(self._timing.live_s * 1000))
        habits = Habits(lease, clock, self._timing.retry_s, self._timing.answer_s)
        in_memory = open_book is MemoryBook
        self._desk: Desk = (Counter if in_memory else Office)(open_book, habits)

    async def start(self) -> None:
        """Open the store. Raises StoreFailed."""
        await self._desk.start()

    async def reserve(self, principal: Principal, budget: Budget, tokens: int) -> Reservation:
        """Set tokens aside. Raises RateLimited, InsufficientQuota, LedgerUnavailable."""
        tokens = within(tokens)
        id = f"{self._gateway}-{next(self._numbers):012x}"
        order = Reserve(id, principal.account_id, principal.key_id, tokens, budget)
        try:
            refused = await self._desk.reserve(order)
        except StoreFailed as error:
            raise LedgerUnavailable from error
        if refused is not None:
            raise exhausted(refused.requested, refused.available, refused.retry_s)
        self._open[id] = None
        return Reservation(id, principal, tokens)

    def settle(self, reservation: Reservation, actual: int) -> None:
        """Charge and count so many tokens; returns at once."""
        principal = reservation.principal
        usage = Usage(principal.account_id, principal.key_id, self._today())
        self._consume(reservation, within(actual), usage)

    def release(self, reservation: Reservation) -> None:
        """Charge nothing; returns at once."""
        self._consume(reservation, 0, None)

    def serve(self, principal: Principal, tokens: int) -> None:
        """Count tokens that another ledger charges; returns at once."""
        if tokens > 0:
            usage = Usage(principal.account_id, principal.key_id, self._today())
            self._desk.submit(Serve(usage, within(tokens)))

    async def account(self, key_id: str) -> Account:
        """The account as it stands. Raises LedgerUnavailable."""

        def read(book: Book) -> Account:
            with book.transaction():
                return book.accounts([key_id]).get(key_id, Account())

        try:
            return await self._desk.ask(read)
        except StoreFailed as error:
            raise LedgerUnavailable from error

    async def served(self) -> dict[Usage, int]:
        """All tokens served that are not forgotten yet. Raises StoreFailed."""

        def read(book: Book) -> dict[Usage, int]:
            with book.transaction():
                return book.served()

        return await self._desk.ask(read)

    async def keep(self) -> None:
        """Hold what is open, free what is forgotten, again and again, until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch)
            while True:
                try:
                    await self.tidy()
                except StoreFailed as error:
                    log.warning("the ledger could not be tidied: %s", error)
                await anyio.sleep(self._timing.tick_s)

    async def tidy(self) -> int:
        """Extend what this gateway has open, then free what expired; how many. Raises StoreFailed.

        Its own go first: a process that was halted for long has only to wake up in time.
        """
        now_ms = int(self._clock() * 1000)
        expires_ms = now_ms + int(self._timing.live_s * 1000)
        ours = list(self._open)
        for start in range(0, len(ours), MOST_EXTENDED):
            await self._desk.ask(_extending(ours[start : start + MOST_EXTENDED], expires_ms))
        freed = await self._desk.ask(lambda book: sweep(book, now_ms))
        oldest = (datetime.fromtimestamp(self._clock(), UTC) - KEEP_USAGE).date().isoformat()
        await self._desk.ask(_pruning(oldest))
        if freed:
            log.warning("%d reservations of a gateway that is gone were freed", freed)
        return freed

    async def flush(self) -> None:
        """Wait until everything so far is written, but no longer than ``flush_s``."""
        await self._desk.flush(self._timing.flush_s)

    async def aclose(self) -> None:
        """Let go of the store. What is owed after `flush` is lost."""
        await self._desk.aclose()

    def _consume(self, reservation: Reservation, actual: int, usage: Usage | None) -> None:
        if reservation.id not in self._open:
            log.warning("reservation %s was ended twice", reservation.id)
            return
        del self._open[reservation.id]
        key = reservation.principal.key_id
        self._desk.submit(Settle(reservation.id, key, reservation.reserved, actual, usage))

    async def _watch(self) -> None:
        while True:
            await anyio.sleep(min(LOOK_S, self._timing.answer_s))
            self._desk.give_up()

    def _today(self) -> str:
        return _date(int(self._clock() // DAY_S))


@lru_cache(maxsize=2)
def _date(day: int) -> str:
    return datetime.fromtimestamp(day * DAY_S, UTC).date().isoformat()


def _extending(ids: list[str], expires_ms: int) -> Callable[[Book], None]:
    def extend(book: Book) -> None:
        with book.transaction():
            book.extend(ids, expires_ms)

    return extend


def _pruning(period: str) -> Callable[[Book], None]:
    def prune(book: Book) -> None:
        with book.transaction():
            book.prune(period)

    return prune
