"""Free memory goes back to the system while the daemon runs."""

from __future__ import annotations

import gc
import sys
import weakref

import anyio
import pytest

from helexa import heap
from helexa.daemon.heap import keep_heap_small
from helexa.heap import heap_trimmer

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
            while resident_mib() > full - COUNT * PIECE / 2**20 / 2:  # noqa: ASYNC110 - pages tell nobody
                await anyio.sleep(0.02)
        tasks.cancel_scope.cancel()
    assert resident_mib() <= full - COUNT * PIECE / 2**20 / 2
    assert len(pieces) == 1


class Node:
    """Part of a cycle."""

    other: Node


def cycle() -> weakref.ref[Node]:
    one, two = Node(), Node()
    one.other, two.other = two, one
    return weakref.ref(one)


async def until_gone(node: weakref.ref[Node]) -> None:
    with anyio.move_on_after(10):
        while node() is not None:  # noqa: ASYNC110 - nobody tells of garbage
            await anyio.sleep(0.01)


async def test_a_cycle_is_freed_however_few_there_are() -> None:
    gc.disable()
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(keep_heap_small, 0.01)
            await anyio.sleep(0.02)  # what is there once it begins is left out
            await until_gone(node := cycle())
            assert gc.get_freeze_count() > 10000  # all that was there before
            tasks.cancel_scope.cancel()
    finally:
        gc.enable()
    assert node() is None
    assert gc.get_freeze_count() == 0


async def test_another_c_library_has_its_cycles_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda name: object())
    assert heap_trimmer() is None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keep_heap_small, 0.01)
        await anyio.sleep(0.02)
        await until_gone(node := cycle())
        tasks.cancel_scope.cancel()
    assert node() is None


def test_another_system_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert heap_trimmer() is None
