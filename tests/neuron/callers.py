"""Requests in tasks of their own, which run, wait, leave and are cancelled as a test says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from helexa.errors import HelexaError
from helexa.neuron.admission import Admission, Permit


class Caller:
    """One request in a task of its own: how far it got, and how to end it."""

    def __init__(self) -> None:
        self.permit: Permit | None = None
        self.error: HelexaError | None = None
        self.refused_s = 0.0
        self.done = anyio.Event()
        self.scope = anyio.CancelScope()

    async def run(self, door: Admission, principal: str | None, kv_mb: int) -> None:
        with self.scope:
            try:
                async with door.enter(principal, kv_mb) as self.permit:
                    await self.done.wait()
            except HelexaError as error:
                self.error, self.refused_s = error, anyio.current_time()

    async def leave(self) -> None:
        self.done.set()
        await settle()

    async def cancel(self) -> None:
        self.scope.cancel()
        await settle()


async def settle() -> None:
    """Let every task run until it waits for somebody else."""
    for _ in range(10):
        await anyio.lowlevel.checkpoint()


Enter = Callable[..., Any]


@asynccontextmanager
async def callers(at: Admission) -> AsyncIterator[Enter]:
    """Gives a function that lets a new caller arrive and returns it once it runs or waits."""
    async with anyio.create_task_group() as group:
        yield entering(group, at)
        group.cancel_scope.cancel()


def entering(group: TaskGroup, at: Admission) -> Enter:
    async def enter(principal: str | None = None, kv_mb: int = 0) -> Caller:
        caller = Caller()
        group.start_soon(caller.run, at, principal, kv_mb)
        await settle()
        return caller

    return enter
