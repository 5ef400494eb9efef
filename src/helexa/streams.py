"""Waiting for answers: one stream for threads, one for event loops, over the same `Answer`.

The engine's thread never waits for a reader: it drops each output into the reader's mailbox.
A reader that goes away, however it does, has its requests aborted.
"""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from queue import SimpleQueue
from typing import Any, Final, Generic, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread
from anyio.lowlevel import RunVar

from helexa.answers import Answer, Generation, gather
from helexa.engine.host import ConsumerGone
from helexa.engine.outputs import Request, StepOutput
from helexa.loaded import Job, LoadedModel
from helexa.text.events import Event, Finish

Item = TypeVar("Item")

RING_AGAIN_S: Final = 1.0
"""How long a loop may leave a call unanswered before it is called again."""


class _Running:
    """One request in flight: its answer, and the duty to abort it if nobody reads to the end."""

    def __init__(self, model: LoadedModel, job: Job, request: Request) -> None:
        self.answer: Answer = model.answer(job)
        self._model = model
        self._request = request
        self._id: int | None = None

    def submit(self, deliver: Callable[[StepOutput], None]) -> None:
        self._id = self._model.submit(self._request, deliver)

    def push(self, output: StepOutput) -> list[Event]:
        events = self.answer.push(output)
        if self.answer.done and not output.finished:
            self.abort(completed=True)
        return events

    def abort(self, *, completed: bool = False) -> None:
        """Stop it in the engine; harmless when it has ended."""
        if self._id is not None:
            self._model.abort(self._id, completed=completed)
            self._id = None


class EventStream(Iterator[Event]):
    """The events of one answer, for a plain ``for`` loop; threads may share it.

    Ends after ``Finish``; raises what went wrong instead. ``close()``, the end of a ``with`` block
    and dropping the stream abort the request within one step. A loop over ``llm.stream(...)``
    drops it when it is left; a stream that has a name runs on until it is closed.
    """

    def __init__(self, model: LoadedModel, job: Job) -> None:
        self._running = _Running(model, job, job.requests()[0])
        self._mailbox: SimpleQueue[StepOutput | None] = SimpleQueue()
        self._reading = threading.Lock()
        self._events: deque[Event] = deque()
        self._closed = False
        self._running.submit(self._mailbox.put)

    def __next__(self) -> Event:
        with self._reading:
            return self._next()

    def _next(self) -> Event:
        while not self._closed:
            if self._events:
                return self._events.popleft()
            if self._running.answer.done:
                break
            try:
                output = self._mailbox.get()
                if output is not None:
                    self._events.extend(self._running.push(output))
            except BaseException:  # also KeyboardInterrupt: the reader leaves, the request ends
                self.close()
                raise
        raise StopIteration

    def close(self) -> None:
        """Abort the request; the stream ends here, also for a reader waiting in another thread."""
        if not self._closed:
            self._closed = True
            if not self._running.answer.done:
                self._running.abort()
            self._mailbox.put(None)

    def __enter__(self) -> EventStream:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_closed"):
            self.close()


def run_jobs(
    model: LoadedModel, jobs: list[Job], advance: Callable[[int], None]
) -> list[Generation]:
    """Answer all jobs, batched by the engine; results in the order of the jobs.

    ``advance`` is called with the token count of each finished answer. The first error aborts the
    rest and is raised.
    """
    batch = _Batch(model, jobs)
    mailbox: SimpleQueue[tuple[int, StepOutput]] = SimpleQueue()

    def put(index: int, output: StepOutput) -> None:
        mailbox.put((index, output))

    try:
        for index, running in enumerate(batch.running):
            running.submit(partial(put, index))
        while not batch.done:
            advance_by = batch.push(*mailbox.get())
            if advance_by is not None:
                advance(advance_by)
    finally:
        batch.abort_unfinished()
    return batch.results()


class _Batch:
    """Several jobs (each with its ``n`` choices) collected to the end."""

    def __init__(self, model: LoadedModel, jobs: list[Job]) -> None:
        self._jobs = jobs
        self.running = [_Running(model, job, request) for job in jobs for request in job.requests()]
        self._events: list[list[Event]] = [[] for _ in self.running]
        self._left = len(self.running)

    @property
    def done(self) -> bool:
        return self._left == 0

    def push(self, index: int, output: StepOutput) -> int | None:
        """Take one output; the answer's token count if that completed it."""
        running = self.running[index]
        if running.answer.done:
            return None
        events = running.push(output)
        self._events[index] += events
        if not (events and isinstance(events[-1], Finish)):
            return None
        self._left -= 1
        return len(running.answer.token_ids)

    def abort_unfinished(self) -> None:
        for running in self.running:
            if not running.answer.done:
                running.abort()

    def results(self) -> list[Generation]:
        wholes = iter(
            gather(events, running.answer.token_ids)
            for events, running in zip(self._events, self.running, strict=True)
        )
        return [_with_choices([next(wholes) for _ in range(job.params.n)]) for job in self._jobs]


def _with_choices(choices: list[Generation]) -> Generation:
    first, *others = choices
    return replace(first, alternatives=tuple(others)) if others else first


class _Bell:
    """Wakes an event loop from other threads, once for all that it has to do by then.

    A step leaves something for each of its readers. A call of the loop for each would be a write to
    its socket for each, and at every one of them the loop, awake since the first, would take the
    interpreter from the engine's thread. What nobody answers is rung again: a loop that ended in
    between has forgotten the first call, and tells so at the second.
    """

    def __init__(self) -> None:
        # Whoever keeps the bell of a loop must not keep the loop: see `_BELL`.
        self._loop = weakref.ref(anyio.lowlevel.current_token().native_token)
        self._lock = threading.Lock()
        self._due: dict[LoopMailbox[Any], None] = {}  # as a set that keeps their order
        self._rung_s = -math.inf

    def ring(self, mailbox: LoopMailbox[Any]) -> None:
        """Have the loop look at a mailbox. Raises ConsumerGone if it does not run any more."""
        now_s = time.monotonic()
        with self._lock:
            self._due[mailbox] = None
            if len(self._due) > 1 and now_s < self._rung_s + RING_AGAIN_S:
                return
            self._rung_s = now_s
        try:
            self._call()
        except RuntimeError as error:  # the loop is closed (asyncio) or has finished (trio)
            with self._lock:
                self._due.clear()  # so that whoever comes next finds out as well
            raise ConsumerGone from error

    def _call(self) -> None:
        loop: Any = self._loop()
        if loop is None:
            raise RuntimeError("the event loop is no more")
        soon = getattr(loop, "call_soon_threadsafe", None) or loop.run_sync_soon
        soon(self._answer)

    def _answer(self) -> None:
        with self._lock:
            due, self._due = self._due, {}
        for mailbox in due:
            mailbox.wake()


_BELL: RunVar[_Bell] = RunVar("helexa-bell")  # one for each event loop, as long as that lives


def _bell() -> _Bell:
    """That of the event loop which runs here."""
    try:
        return _BELL.get()
    except LookupError:
        bell = _Bell()
        _BELL.set(bell)
        return bell


class LoopMailbox(Generic[Item]):
    """What other threads leave for one task of an asyncio or trio event loop."""

    def __init__(self) -> None:
        self._bell = _bell()
        self._items: deque[Item] = deque()
        self._arrived = anyio.Event()

    def put(self, item: Item) -> None:
        """Called on any thread, mostly the engine's; never blocks it.

        Raises ConsumerGone if the loop does not run any more.
        """
        self._items.append(item)
        self._bell.ring(self)

    def wake(self) -> None:
        """Called by the loop when something has arrived."""
        self._arrived.set()

    async def get(self) -> Item:
        while not self._items:
            self._arrived = anyio.Event()  # nobody wakes before the wait: only the loop does
            await self._arrived.wait()
        return self._items.popleft()


class AsyncEventStream:
    """The events of one answer, for ``async for``, on asyncio or trio.

    Ends after ``Finish``; raises what went wrong instead. Cancellation, ``aclose()``, the end of
    an ``async with`` block and dropping the stream abort the request within one step. One task
    reads it, any may close it. ``job`` may still have to be made, which is done in a thread.
    """

    def __init__(self, model: LoadedModel, job: Job | Callable[[], Job]) -> None:
        self._model = model
        self._job = job
        self._running: _Running | None = None
        self._mailbox: LoopMailbox[StepOutput | None] = LoopMailbox()
        self._events: deque[Event] = deque()
        self._closed = False

    @property
    def tokens_read(self) -> int:
        """How many tokens of the answer have been read so far."""
        return 0 if self._running is None else len(self._running.answer.token_ids)

    def __aiter__(self) -> AsyncEventStream:
        return self

    async def __anext__(self) -> Event:
        while not self._closed:
            if self._events:
                return self._events.popleft()
            if self._running is not None and self._running.answer.done:
                break
            try:
                if self._running is None:
                    await self.start()
                else:
                    await self._read(self._running)
            except BaseException:  # also cancellation: the reader leaves, the request ends
                self._abort()
                raise
        raise StopAsyncIteration

    async def start(self) -> None:
        """Hand the request to the engine; the first read does it otherwise. Raises as that would.

        Once only.
        """
        job = self._job
        if not isinstance(job, Job):
            job = await anyio.to_thread.run_sync(job)
        if self._closed:  # while the prompt was being prepared: nothing runs, nothing must
            return
        self._running = _Running(self._model, job, job.requests()[0])
        # The engine gets the mailbox, not this object: dropping the stream must end the request.
        self._running.submit(self._mailbox.put)

    async def _read(self, running: _Running) -> None:
        output = await self._mailbox.get()
        if output is not None:
            self._events.extend(running.push(output))

    async def aclose(self) -> None:
        """Abort the request; the stream ends here, also for a reader waiting in another task."""
        self._abort()
        with suppress(ConsumerGone):  # no loop, no reader
            self._mailbox.put(None)

    async def __aenter__(self) -> AsyncEventStream:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def _abort(self) -> None:
        self._closed = True
        if self._running is not None and not self._running.answer.done:
            self._running.abort()

    def __del__(self) -> None:
        if hasattr(self, "_closed"):
            self._abort()


async def run_jobs_async(
    model: LoadedModel, jobs: list[Job], advance: Callable[[int], None]
) -> list[Generation]:
    """`run_jobs` for an event loop; cancellation aborts every request within one step."""
    batch = _Batch(model, jobs)
    mailbox: LoopMailbox[tuple[int, StepOutput]] = LoopMailbox()

    def put(index: int, output: StepOutput) -> None:
        mailbox.put((index, output))

    try:
        for index, running in enumerate(batch.running):
            running.submit(partial(put, index))
        while not batch.done:
            advance_by = batch.push(*await mailbox.get())
            if advance_by is not None:
                advance(advance_by)
    finally:
        batch.abort_unfinished()
    return batch.results()
