"""The stream of an event loop, over a model that says nothing: what closing it does, and when."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, cast

import anyio
import pytest

from helexa.engine.outputs import Request, StepOutput
from helexa.engine.params import SamplingParams
from helexa.loaded import Job, LoadedModel
from helexa.streams import AsyncEventStream


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
