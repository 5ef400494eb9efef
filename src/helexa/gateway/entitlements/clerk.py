"""Who keeps the book: a thread that carries out all that waits in one transaction."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from queue import Empty, SimpleQueue
from typing import Any

import anyio

from helexa.gateway.entitlements.book import Book, CommitInDoubt, StoreFailed
from helexa.gateway.entitlements.debts import Debts
from helexa.gateway.entitlements.posting import Answers, Bill, Lease, Reserve, post
from helexa.http.occasional import Occasional

DRAIN_RETRY_S = 0.1

Job = Callable[[Book], Any]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Flush:
    """Try to write all that is owed, until this time of the monotonic clock."""

    until_s: float


class Waiter:
    """Somebody in the event loop who waits until the thread has done something.

    The thread sets ``answer`` or ``failure``. The loop sets ``gone`` if nobody waits any more, and
    ``done`` once the thread has delivered.
    """

    __slots__ = ("answer", "done", "failure", "gone", "ready", "since_s", "task")

    def __init__(self, task: Reserve | Job | Flush) -> None:
        self.task = task
        self.ready = anyio.Event()
        self.since_s = time.monotonic()
        self.gone = False
        self.done = False
        self.answer: Any = None
        self.failure: BaseException | None = None


Item = Waiter | Bill
Tray = SimpleQueue[Sequence[Item] | None]
"""What is handed in, some at a time; None ends the thread."""


@dataclass(frozen=True, slots=True)
class Habits:
    """How a clerk works: in whose name, by which clock (wall time, seconds), how patiently.

    ``retry_s`` is between two tries to write what is owed, ``answer_s`` the longest that anybody
    waits.
    """

    lease: Lease
    clock: Callable[[], float]
    retry_s: float
    answer_s: float


class Clerk:
    """The thread's side of a tray: what it takes from there is answered through ``deliver``.

    Whatever waits is written by one commit (group commit): the more requests there are, the less
    each costs. A bill that the store does not take is owed to it.
    """

    def __init__(
        self,
        tray: Tray,
        deliver: Callable[[Sequence[Waiter]], None],
        habits: Habits,
    ) -> None:
        self._tray = tray
        self._deliver = deliver
        self._habits = habits
        self._debts = Debts(habits.retry_s)
        self._failures = Occasional(time.monotonic)

    def run(self, open_book: Callable[[], Book]) -> None:
        """Work until the end; the first in the queue waits for the store to be opened."""
        opening = [item for item in self._tray.get() or () if isinstance(item, Waiter)]
        try:
            book = open_book()
        except Exception as error:  # it is raised where it is waited for
            for waiter in opening:
                waiter.failure = error
            self._deliver(opening)
            return
        self._deliver(opening)
        while self._work(book):
            pass
        book.close()
        if owed := len(self._debts):
            log.error("%d settlements could not be written and are lost", owed)

    def _work(self, book: Book) -> bool:
        """One round; False if it was the last."""
        handed_in = self._gather()
        waiters: list[Waiter] = []
        bills: list[Bill] = []
        for item in chain(*(items for items in handed_in if items)):
            if isinstance(item, Waiter):
                waiters.append(item)
            else:
                bills.append(item)
        failure = None
        if self._debts.wait_s(time.monotonic()) == 0:
            failure = self._pay(book)
        failure = self._carry_out(book, bills, waiters, failure)
        for waiter in waiters:
            if isinstance(waiter.task, Flush):
                waiter.answer = self._flush(book, waiter.task.until_s)
            elif not isinstance(waiter.task, Reserve):
                _do(waiter, waiter.task, book, failure)
        if waiters:
            self._deliver(waiters)
        return None not in handed_in

    def _gather(self) -> list[Sequence[Item] | None]:
        """All that waits now, or is next to come; nothing if something owed is due before."""
        try:
            found = [self._tray.get(timeout=self._debts.wait_s(time.monotonic()))]
        except Empty:
            return []
        while not self._tray.empty():
            found.append(self._tray.get())
        return found

    def _carry_out(
        self,
        book: Book,
        bills: Sequence[Bill],
        waiters: Sequence[Waiter],
        failure: Exception | None,
    ) -> Exception | None:
        """Bills and reservations, unless the store has failed already; what went wrong."""
        reserving = [(w, w.task) for w in waiters if isinstance(w.task, Reserve)]
        reserves = [order for waiter, order in reserving if not waiter.gone]
        answers: Answers = {}
        if failure is not None:
            self._debts.add(bills, time.monotonic())
        elif bills or reserves:
            answers, failure = self._try(book, bills, reserves)
        for waiter, order in reserving:
            if order.id in answers:
                waiter.answer = answers[order.id]
            else:
                waiter.failure = failure or StoreFailed("nobody waits for it")
        return failure

    def _try(
        self, book: Book, bills: Sequence[Bill], reserves: Sequence[Reserve]
    ) -> tuple[Answers, Exception | None]:
        try:
            return self._write(book, bills, reserves), None
        except CommitInDoubt as error:
            self._debts.doubt(error.mark, bills, reserves, time.monotonic())
            failure: Exception = self._failed(error)
        except StoreFailed as error:
            self._debts.add(bills, time.monotonic())
            failure = self._failed(error)
        except Exception as error:  # the edge of the thread: who waits must not wait for ever
            log.exception("the ledger failed")
            self._debts.add(bills, time.monotonic())
            failure = error
        return {}, failure

    def _write(
        self, book: Book, bills: Sequence[Bill], reserves: Sequence[Reserve] = ()
    ) -> Answers:
        now_ms = int(self._habits.clock() * 1000)
        return post(book, bills, reserves, now_ms, self._habits.lease)

    def _pay(self, book: Book) -> Exception | None:
        owed = len(self._debts)
        try:
            self._debts.pay(book, self._write, time.monotonic())
        except StoreFailed as error:
            return self._failed(error)
        except Exception:  # the edge of the thread; it is tried again, and others are not held up
            log.exception("the ledger failed")
            return None
        log.info("%d settlements that had waited for the ledger are written", owed)
        return None

    def _failed(self, error: StoreFailed) -> StoreFailed:
        if count := self._failures.happened():
            owed = len(self._debts)
            log.warning(
                "the ledger failed (%d times), %d settlements wait for it: %s", count, owed, error
            )
        return error

    def _flush(self, book: Book, until_s: float) -> int:
        """Try again and again; how many settlements are still owed."""
        while len(self._debts) and self._pay(book) and time.monotonic() < until_s:
            time.sleep(DRAIN_RETRY_S)
        return len(self._debts)


def _do(waiter: Waiter, job: Job, book: Book, failure: Exception | None) -> None:
    if failure is not None:
        waiter.failure = failure
        return
    try:
        waiter.answer = job(book)
    except StoreFailed as error:
        waiter.failure = error
    except Exception as error:  # the edge of the thread: who waits must not wait for ever
        log.exception("the ledger failed")
        waiter.failure = error
