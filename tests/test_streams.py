"""The stream of an event loop, over a model that says nothing: what closing it does, and when."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any, cast

import anyio
import pytest

from helexa.engine.host import ConsumerGone
from helexa.engine.outputs import Request, StepOutput
from helexa.engine.params import SamplingParams
from helexa.loaded import Job, LoadedModel
from helexa.streams import AsyncEventStream, LoopMailbox


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Unanswered:
    """The answer of a request that gets no output."""

    done = False


class SilentModel:
    """Takes requests and never answers: a reader can only wait."""

    def __init__(self) -> None:
        self.submitted = 0
        self.aborted: list[int] = []

    def answer(self, job: Job) -> Unanswered:
        return Unanswered()

    def submit(self, request: Request, deliver: Callable[[StepOutput], None]) -> int:
        self.submitted += 1
        return self.submitted

    def abort(self, request_id: int, *, completed: bool = False) -> None:
        self.aborted.append(request_id)


def job() -> Job:
    return Job((1,), SamplingParams(), cast("Any", None))  # no output arrives to be parsed


async def read(stream: AsyncEventStream) -> None:
    assert [event async for event in stream] == []


@pytest.mark.anyio
async def test_closing_wakes_a_reader_that_waits() -> None:
    model = SilentModel()
    stream = AsyncEventStream(cast("LoadedModel", model), job)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read, stream)
            while not model.submitted:  # noqa: ASYNC110  # it happens after a thread is done
                await anyio.sleep(0.002)
            await anyio.wait_all_tasks_blocked()
            await stream.aclose()
    assert model.aborted == [1]
    await stream.aclose()
    assert model.aborted == [1]


@pytest.mark.anyio
async def test_closing_while_the_prompt_is_prepared_starts_nothing() -> None:
    model = SilentModel()
    entered, gate = threading.Event(), threading.Event()

    def prepare() -> Job:
        entered.set()
        assert gate.wait(10)
        return job()

    stream = AsyncEventStream(cast("LoadedModel", model), prepare)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read, stream)
            await anyio.to_thread.run_sync(entered.wait, 10)
            await stream.aclose()
            gate.set()
    assert model.submitted == 0


@pytest.mark.anyio
async def test_a_job_that_is_ready_needs_no_thread() -> None:
    model = SilentModel()
    limiter = anyio.to_thread.current_default_thread_limiter()
    others = [object() for _ in range(int(limiter.total_tokens))]
    for other in others:
        limiter.acquire_on_behalf_of_nowait(other)
    try:
        with anyio.fail_after(10):
            async with AsyncEventStream(cast("LoadedModel", model), job()) as stream:
                await stream.start()
    finally:
        for other in others:
            limiter.release_on_behalf_of(other)
    assert model.submitted == 1


def test_a_stream_whose_loop_is_gone_can_be_closed() -> None:
    async def new() -> AsyncEventStream:
        return AsyncEventStream(cast("LoadedModel", SilentModel()), job)

    stream = asyncio.run(new())
    asyncio.run(stream.aclose())
    asyncio.run(read(stream))


async def mailboxes(count: int) -> list[LoopMailbox[int]]:
    return [LoopMailbox() for _ in range(count)]


@pytest.mark.anyio
async def test_a_loop_is_called_once_for_many_mailboxes(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = await mailboxes(5)
    calls: list[None] = []
    call = boxes[0]._bell._call

    def counted() -> None:
        calls.append(None)
        call()

    monkeypatch.setattr(boxes[0]._bell, "_call", counted)
    got: list[int] = []

    async def take(box: LoopMailbox[int]) -> None:
        got.append(await box.get())

    with anyio.fail_after(10):
        for turn in range(2):
            async with anyio.create_task_group() as tasks:
                for box in boxes:
                    tasks.start_soon(take, box)
                await anyio.wait_all_tasks_blocked()
                for number, box in enumerate(boxes):
                    box.put(number)
            assert (sorted(got), len(calls)) == ([0, 1, 2, 3, 4], turn + 1)
            got.clear()


@pytest.mark.anyio
async def test_nothing_is_lost_between_threads_and_readers() -> None:
    boxes = await mailboxes(4)
    got: list[list[int]] = [[] for _ in boxes]

    def fill(sign: int) -> None:
        for number in range(1, 301):
            for box in boxes:
                box.put(sign * number)

    async def take(at: int) -> None:
        for _ in range(600):
            got[at].append(await boxes[at].get())

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            for at in range(len(boxes)):
                tasks.start_soon(take, at)
            for sign in (1, -1):
                tasks.start_soon(anyio.to_thread.run_sync, fill, sign)
    for numbers in got:
        assert [n for n in numbers if n > 0] == list(range(1, 301))
        assert [-n for n in numbers if n < 0] == list(range(1, 301))


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_whoever_writes_to_a_loop_that_has_ended_is_told(backend: str) -> None:
    boxes = anyio.run(mailboxes, 3, backend=backend)
    for box in [*boxes, *boxes]:
        with pytest.raises(ConsumerGone):
            box.put(1)


def test_a_loop_that_ends_before_it_has_answered_is_found_out() -> None:
    loop = asyncio.new_event_loop()
    first, second = loop.run_until_complete(mailboxes(2))
    first.put(1)  # the loop does not run, but may again
    loop.close()
    first._bell._rung_s -= 10  # as much later
    for box in (second, first, second):
        with pytest.raises(ConsumerGone):
            box.put(2)


def test_what_is_left_for_a_loop_that_pauses_is_found_by_it() -> None:
    loop = asyncio.new_event_loop()
    first, second = loop.run_until_complete(mailboxes(2))
    for number in (1, 2):
        first.put(number)
        second.put(-number)
    found = [loop.run_until_complete(box.get()) for box in (first, second, second, first)]
    loop.close()
    assert found == [1, -1, -2, 2]


def test_a_loop_is_forgotten_with_its_mailboxes() -> None:
    loop = asyncio.new_event_loop()
    known = weakref.ref(loop)
    loop.run_until_complete(mailboxes(1))
    loop.close()
    del loop
    gc.collect()
    assert known() is None
