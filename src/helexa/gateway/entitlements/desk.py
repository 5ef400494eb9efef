"""The event loop's side of a ledger: orders go in at once, who waits is woken."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread

from helexa.gateway.entitlements.book import Book, StoreFailed
from helexa.gateway.entitlements.budget import Refused
from helexa.gateway.entitlements.clerk import Clerk, Flush, Habits, Item, Job, Tray, Waiter
from helexa.gateway.entitlements.posting import Answers, Bill, Reserve, Settle, post

MOST_WAITING = 20_000
CLOSE_S = 1.0
LINGER_S = 0.002
"""How long settlements, which nobody waits for, wait for company."""

T = TypeVar("T")

log = logging.getLogger(__name__)


class Desk(Protocol):
    """Where a ledger's orders are handed in."""

    async def start(self) -> None:
        """Open the store. Raises StoreFailed."""
        ...

    def submit(self, bill: Bill) -> None:
        """Have it written some time; what cannot be written now is tried again."""
        ...

    async def reserve(self, order: Reserve) -> Refused | None:
        """Have it written, durably. Raises StoreFailed; who is cancelled has reserved nothing."""
        ...

    async def ask(self, job: Callable[[Book], T]) -> T:
        """Run a job with the book. Raises StoreFailed."""
        ...

    def give_up(self) -> None:
        """Fail those who have waited too long: the store's thread hangs in the kernel."""
        ...

    async def flush(self, patience_s: float) -> None:
        """Write what is owed, if that takes no more than so many seconds."""
        ...

    async def aclose(self) -> None:
        """Let go of the store; what is still owed is lost."""
        ...


class Counter:
    """A store that answers at once and never fails: no thread, no queue."""

    def __init__(self, open_book: Callable[[], Book], habits: Habits) -> None:
        self._book = open_book()
        self._habits = habits

    async def start(self) -> None:
        """Nothing is to be opened."""

    def submit(self, bill: Bill) -> None:
        """Write it."""
        self._post([bill], [])

    async def reserve(self, order: Reserve) -> Refused | None:
        """Write it."""
        return self._post([], [order])[order.id]

    async def ask(self, job: Callable[[Book], T]) -> T:
        """Run it."""
        return job(self._book)

    def give_up(self) -> None:
        """Nobody waits."""

    async def flush(self, patience_s: float) -> None:
        """Nothing is owed."""

    async def aclose(self) -> None:
        """There is nothing to let go of."""

    def _post(self, bills: Sequence[Bill], reserves: Sequence[Reserve]) -> Answers:
        now_ms = int(self._habits.clock() * 1000)
        return post(self._book, bills, reserves, now_ms, self._habits.lease)


class Office:
    """A store behind a thread.

    What the tasks of one turn of the event loop want is handed to the thread at the turn's end, and
    those who wait for it are woken by one call. To wake a thread, and to be woken by one, costs
    more than a reservation; and a busy loop takes long turns, so the more there is to do, the more
    is done at once.
    """

    def __init__(self, open_book: Callable[[], Book], habits: Habits) -> None:
        self._open_book = open_book
        self._answer_s = habits.answer_s
        self._tray: Tray = SimpleQueue()
        self._clerk = Clerk(self._tray, self._hand_out, habits)
        self._items: list[Item] = []
        self._due = self._due_later = False
        self._waiting: set[Waiter] = set()
        self._ended = False

    async def start(self) -> None:
        """Open the store in its thread. Raises StoreFailed."""
        token: Any = anyio.lowlevel.current_token().native_token
        self._wake_soon = getattr(token, "call_soon_threadsafe", None) or token.run_sync_soon
        self._soon = getattr(token, "call_soon", None) or token.run_sync_soon
        self._later = getattr(token, "call_later", None)  # trio has none
        args = (self._open_book,)
        run = self._clerk.run
        self._thread = threading.Thread(target=run, args=args, name="ledger", daemon=True)
        self._thread.start()
        try:
            await self.ask(lambda book: None)
        except BaseException:
            self._end()
            raise

    def submit(self, bill: Bill) -> None:
        """Have it written; returns at once."""
        if self._ended:
            log.error("the ledger is closed, this is lost: %s", bill)
        self._items.append(bill)
        if not (self._due or self._due_later):
            self._due_later = True
            if self._later is None:
                self._soon(self._hand_in_late)
            else:
                self._later(LINGER_S, self._hand_in_late)

    async def reserve(self, order: Reserve) -> Refused | None:
        """Have it written, durably, before this returns."""
        answer: Refused | None = await self._wait(order)
        return answer

    async def ask(self, job: Callable[[Book], T]) -> T:
        """Run a job in the thread."""
        answer: T = await self._wait(job)
        return answer

    def give_up(self) -> None:
        """Fail those who have waited too long."""
        too_early_s = time.monotonic() - self._answer_s
        for waiter in self._waiting:
            if waiter.since_s < too_early_s:
                waiter.gone = True
                waiter.ready.set()

    async def flush(self, patience_s: float) -> None:
        """Write what is owed; not waited for longer than that and a second."""
        if self._ended:
            return
        with anyio.move_on_after(patience_s + 1, shield=True) as waiting:
            owed = await self._wait(Flush(time.monotonic() + patience_s))
            if owed:
                log.error("%d settlements wait for a ledger that does not take them", owed)
        if waiting.cancelled_caught:
            log.error("the ledger does not answer")

    async def aclose(self) -> None:
        """End the thread; not waited for longer than a moment, should it hang."""
        if self._ended:
            return
        self._end()
        with anyio.move_on_after(CLOSE_S, shield=True):
            await anyio.to_thread.run_sync(self._thread.join, CLOSE_S)

    async def _wait(self, task: Reserve | Job | Flush) -> Any:
        if self._ended or len(self._waiting) >= MOST_WAITING:
            raise StoreFailed("it is closed" if self._ended else "too many wait for it")
        waiter = Waiter(task)
        self._items.append(waiter)
        if not self._waiting:  # the thread is idle, or will be soon
            self._hand_in()
        elif not self._due:
            self._due = True
            self._soon(self._hand_in)
        self._waiting.add(waiter)
        try:
            await waiter.ready.wait()
        except BaseException:
            waiter.gone = True
            if waiter.done:
                self._take_back(waiter)
            raise
        finally:
            self._waiting.discard(waiter)
        if waiter.gone:
            raise StoreFailed(f"no answer within {self._answer_s:g} s")
        if waiter.failure is not None:
            # Many may have one failure: each raises its own, or the tracebacks would pile up.
            raise StoreFailed(str(waiter.failure)) from waiter.failure
        return waiter.answer

    def _hand_in(self) -> None:
        """Give the thread what has come together."""
        self._due = False
        if self._items:
            self._tray.put(self._items)
            self._items = []

    def _hand_in_late(self) -> None:
        self._due_later = False
        self._hand_in()

    def _end(self) -> None:
        self._ended = True
        self._hand_in()
        self._tray.put(None)

    def _hand_out(self, waiters: Sequence[Waiter]) -> None:
        """Called in the thread: wake them all."""
        try:
            self._wake_soon(self._deliver, waiters)
        except RuntimeError:  # the loop is closed (asyncio) or has finished (trio)
            log.debug("nobody is left to be told of %d answers", len(waiters))

    def _deliver(self, waiters: Sequence[Waiter]) -> None:
        for waiter in waiters:
            waiter.done = True
            waiter.ready.set()
            if waiter.gone:
                self._take_back(waiter)

    def _take_back(self, waiter: Waiter) -> None:
        """Free what was reserved for somebody who has left."""
        order = waiter.task
        if isinstance(order, Reserve) and waiter.answer is None and waiter.failure is None:
            self.submit(Settle(order.id, order.key_id, order.tokens))
