"""`AsyncLLM` on asyncio and on trio, and beside a loop that is already running."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from helexa import LLM, AsyncLLM, Finish, Generation, Text
from helexa.errors import EngineClosed, InvalidRequest, PromptTooLong
from helexa.streams import AsyncEventStream
from tests.waiting import wait_until

pytestmark = pytest.mark.anyio
LONG: dict[str, Any] = {"max_tokens": 1800, "ignore_eos": True}


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(10):
        while not condition():  # noqa: ASYNC110  # it becomes true on the engine's thread
            await anyio.sleep(0.002)


async def test_e097_iterate_await_and_batch() -> None:
    async with AsyncLLM("tiny", dtype="float32") as llm:
        whole = await llm.chat("What is 2 + 3?", temperature=0)
        assert isinstance(whole, Generation)
        events = [event async for event in llm.chat("What is 2 + 3?", temperature=0)]
        assert "".join(e.text for e in events if isinstance(e, Text)) == whole.text
        assert isinstance(events[-1], Finish)
        batch = await llm.generate(["One", "Two", "Three"], temperature=0, max_tokens=3)
        single = await llm.stream("Two", temperature=0, max_tokens=3)
        assert batch[1].token_ids == single.token_ids
        with pytest.raises(InvalidRequest, match="await it"):
            llm.generate(["One", "Two"]).__aiter__()


async def test_e097_breaking_out_ends_the_sequence() -> None:
    async with AsyncLLM("tiny") as llm:
        async for _ in llm.stream("Once", **LONG):
            break
        await until(lambda: llm.status.running == 0)


async def test_e097_cancellation_ends_the_sequence() -> None:
    async with AsyncLLM("tiny") as llm:
        with anyio.move_on_after(5) as scope:
            async for _ in llm.stream("Once", **LONG):
                scope.cancel()
        assert scope.cancelled_caught
        await until(lambda: llm.status.running == 0)

        with anyio.move_on_after(5) as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_whole, llm)
                await until(lambda: llm.status.running > 0)
                scope.cancel()
        assert scope.cancelled_caught
        await until(lambda: llm.status.running == 0)


async def _whole(llm: AsyncLLM) -> None:
    await llm.generate(["Once", "There"], **LONG)


async def test_many_streams_at_once_read_what_they_asked_for() -> None:
    async with AsyncLLM("tiny", dtype="float32", max_batch=4) as llm:
        answers: dict[int, str] = {}

        async def ask(n: int) -> None:
            text = ""
            async for event in llm.chat(f"What is {n} + 2?", temperature=0):
                text += event.text
            answers[n] = text

        async with anyio.create_task_group() as tasks:
            for n in range(1, 11):
                tasks.start_soon(ask, n)
        alone = [(await llm.chat(f"What is {n} + 2?", temperature=0)).text for n in range(1, 11)]
        assert [answers[n] for n in range(1, 11)] == alone


async def test_the_loop_stays_free_while_the_engine_works() -> None:
    async with AsyncLLM("tiny") as llm:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tick)
            await llm.generate("Once", max_tokens=64, ignore_eos=True)
            tasks.cancel_scope.cancel()
        assert ticks > 64


async def test_an_error_in_a_batch_says_which_prompt_it_is_about() -> None:
    async with AsyncLLM("tiny", max_context=128) as llm:
        with pytest.raises(PromptTooLong, match=r"^prompt\[1\]: the prompt has") as caught:
            await llm.generate(["ok", "x " * 500, "fine"], max_tokens=2)
        assert caught.value.param == "prompt[1]"
        with pytest.raises(PromptTooLong) as caught:
            await llm.chat(["ok", "fine", "x " * 500], max_tokens=2)
        assert caught.value.param == "messages[2]"


async def test_a_batch_may_show_a_bar_and_a_stream_may_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # else rich draws nothing outside of a terminal
    async with AsyncLLM("tiny") as llm:
        await llm.generate(["One", "Two"], max_tokens=2)
        await llm.chat(["One", "Two"], max_tokens=2)
        assert capsys.readouterr().err == ""
        await llm.generate(["One", "Two"], max_tokens=2, progress=True)
        assert "answers" in capsys.readouterr().err
        await llm.chat(["One", "Two"], max_tokens=2, progress=True)
        assert "answers" in capsys.readouterr().err
        with pytest.raises(TypeError, match="a stream has none"):
            llm.stream("One", progress=True)
        with pytest.raises(TypeError, match="a stream has none"):
            llm.stream_chat("One", progress=True)


async def test_a_closed_model_does_not_open_again() -> None:
    llm = await AsyncLLM("tiny", max_batch=1).open()
    await llm.close()
    assert repr(llm) == "AsyncLLM('tiny', closed)"
    with pytest.raises(EngineClosed, match=r"make a new one: AsyncLLM\('tiny'\)"):
        await llm.open()
    with pytest.raises(EngineClosed):
        async with llm:
            pass


async def test_a_closed_or_unopened_model_says_so() -> None:
    llm = AsyncLLM("tiny")
    assert "not open" in repr(llm)
    with pytest.raises(EngineClosed, match="not open"):
        llm.chat("hi")
    await llm.open()
    stream = llm.stream("Once", **LONG).__aiter__()
    await stream.__anext__()
    await llm.close()
    with pytest.raises(EngineClosed):
        async for _ in stream:
            pass
    with pytest.raises(EngineClosed):
        await llm.chat("hi")


async def test_the_sync_model_works_inside_a_running_loop() -> None:
    with LLM("tiny") as llm:
        assert llm.chat("hi", max_tokens=4).usage.completion_tokens > 0


def test_a_stream_whose_loop_is_gone_ends() -> None:
    llm = AsyncLLM("tiny")

    async def begin() -> AsyncEventStream:
        stream = (await llm.open()).stream("Once", **LONG).__aiter__()
        await stream.__anext__()
        return stream

    kept = asyncio.run(begin())
    wait_until(lambda: llm.status.running == 0)
    assert llm.status.tok_s_decode == 0  # it did not run to its end
    del kept
    asyncio.run(llm.close())


async def test_a_model_that_is_opened_twice_at_once_is_loaded_once() -> None:
    llm = AsyncLLM("tiny", device="cpu")
    found = []

    async def open_it() -> None:
        await llm.open()
        found.append(llm._model)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(open_it)
        tasks.start_soon(open_it)
    assert found[0] is found[1]
    await llm.close()


async def test_a_model_that_is_closed_while_it_opens_stays_closed() -> None:
    llm = AsyncLLM("tiny", device="cpu")

    async def open_it() -> None:
        with contextlib.suppress(EngineClosed):  # unless it was quicker
            await llm.open()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(open_it)
        await anyio.sleep(0.01)
        await llm.close()
    with pytest.raises(EngineClosed):
        await llm.open()
    with pytest.raises(EngineClosed):
        await llm.chat("hi")


async def test_an_answer_that_was_not_awaited_says_so() -> None:
    async with AsyncLLM("tiny", device="cpu") as llm:
        answer: Any = llm.chat("hi")
        with pytest.raises(AttributeError, match="await it"):
            _ = answer.text
        with pytest.raises(AttributeError, match="nonsense"):
            _ = answer.nonsense
