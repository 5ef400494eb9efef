"""How a task ends that is there to be cancelled."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio


async def ends_quietly(run: Callable[[], Awaitable[None]]) -> None:
    """Run the whole of a task, and return when it is cancelled.

    If it raised, anyio would keep the exception in a reference cycle, and with it every variable of
    the frames it passed, a request and its prompt among them, until the garbage collector comes by.
    """
    try:
        await run()
    except anyio.get_cancelled_exc_class():
        return
