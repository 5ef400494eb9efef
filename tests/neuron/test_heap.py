"""Free memory goes back to the system while the daemon runs."""

from __future__ import annotations

import gc
import sys
import weakref

import anyio
import anyio.lowlevel
import pytest

from helexa.neuron import heap
from helexa.neuron.heap import heap_trimmer, keep_heap_small

pytestmark = pytest.mark.anyio
PIECE = 64 * 1024  # below what glibc maps apart, so that it lies in the heap
COUNT = 2000


def resident_mib() -> float:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096 / 2**20


@pytest.mark.skipif(heap_trimmer() is None, reason="only glibc keeps what is free, and can trim")
async def test_holes_in_the_heap_are_given_back() -> None:
    pieces = [b"x" * PIECE for _ in range(COUNT)]
    del pieces[: COUNT - 1]  # what is above the holes stays, so that the heap cannot shrink
    full = resident_mib()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keep_heap_small, 0.01)
        with anyio.move_on_after(10):
            while resident_mib() > full - COUNT * PIECE / 2**20 / 2:  # noqa: ASYNC110 - no event
                await anyio.sleep(0.02)
        tasks.cancel_scope.cancel()
    assert resident_mib() <= full - COUNT * PIECE / 2**20 / 2
    assert len(pieces) == 1


async def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda name: object())
    assert heap_trimmer() is None
    with anyio.move_on_after(0.1) as running:
        await keep_heap_small(0.01)
    assert running.cancelled_caught


async def test_cycles_are_looked_for_though_nothing_asks_for_it() -> None:
    class Knot:
        def __init__(self) -> None:
            self.me = self

    gc.disable()
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(keep_heap_small, 0.01)
            await anyio.lowlevel.checkpoint()
            knot = weakref.ref(Knot())
            with anyio.move_on_after(10):
                while knot() is not None:  # noqa: ASYNC110 - no event
                    await anyio.sleep(0.02)
            tasks.cancel_scope.cancel()
        assert knot() is None
        assert gc.get_freeze_count() == 0
    finally:
        gc.enable()


def test_another_system_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert heap_trimmer() is None
