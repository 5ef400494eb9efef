"""What an authority is to be told, by tasks of their own: nobody waits for its answers."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
from anyio.abc import TaskGroup, TaskStatus

from helexa.gateway.entitlements.authority import Authority, NoAnswer
from helexa.http.occasional import Occasional
from helexa.http.response import cause_of

MOST_WAITING = 10_000
MOST_AT_ONCE = 8
FLUSH_S = 5.0

log = logging.getLogger(__name__)


class Teller:
    """Messages to an authority, oldest first, some of them at once so that none holds up all.

    Each is said once; a failure is only logged. The tasks are shielded, since what ends a gateway
    is no reason not to tell: `flush` and then `stop` end them.
    """

    def __init__(
        self,
        authority: Authority,
        most_waiting: int = MOST_WAITING,
        flush_s: float = FLUSH_S,
    ) -> None:
        self._authority = authority
        self._most_waiting = most_waiting
        self._flush_s = flush_s
        self._waiting: deque[tuple[str, dict[str, Any]]] = deque()
        self._telling = 0
        self._idle = anyio.Event()
        self._tasks: TaskGroup | None = None
        self._scope = anyio.CancelScope(shield=True)
        self._failures = Occasional(time.monotonic)
        self._losses = Occasional(time.monotonic)

    def tell(self, message: str, body: dict[str, Any]) -> None:
        """Have it said soon; returns at once."""
        if self._tasks is None or len(self._waiting) >= self._most_waiting:
            if count := self._losses.happened():
                log.warning(
                    "%d messages to the entitlement authority are lost, %d wait for it",
                    *(count, len(self._waiting)),
                )
            return
        self._waiting.append((message, body))
        if self._telling < MOST_AT_ONCE:
            self._telling += 1
            self._tasks.start_soon(self._work)

    async def flush(self) -> None:
        """Wait until everything so far is said, but no longer than ``flush_s``."""
        with anyio.move_on_after(self._flush_s):
            while self._telling:
                if self._idle.is_set():
                    self._idle = anyio.Event()
                await self._idle.wait()

    def stop(self) -> None:
        """Say nothing more."""
        self._tasks = None
        if untold := len(self._waiting) + self._telling:
            log.warning(
                "%d messages to the entitlement authority were not answered in time", untold
            )
        self._scope.cancel()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Say what there is to be said, until `stop`."""
        with self._scope:
            async with anyio.create_task_group() as self._tasks:
                task_status.started()
                await anyio.sleep_forever()

    async def _work(self) -> None:
        try:
            while self._waiting:
                await self._say(*self._waiting.popleft())
        finally:
            self._telling -= 1
            if not self._telling:
                self._idle.set()

    async def _say(self, message: str, body: dict[str, Any]) -> None:
        try:
            await self._authority.tell(message, body)
        except NoAnswer as error:
            if count := self._failures.happened():
                log.warning("the entitlement authority was not told (%d times): %s", count, error)
        except Exception:  # the edge of a task: one message must not end the others, or the gateway
            log.exception("the entitlement authority was not told")


@asynccontextmanager
async def telling(authority: Authority) -> AsyncIterator[Teller]:
    """Somebody to tell it, until the block ends."""
    teller = Teller(authority)
    try:
        async with anyio.create_task_group() as tasks:
            await tasks.start(teller.run)
            try:
                yield teller
            finally:
                teller.stop()
    except BaseExceptionGroup as group:
        raise cause_of(group) from None
