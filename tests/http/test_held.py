"""What a request holds is left as the standard library's stack of contexts would leave it."""

from __future__ import annotations

from collections.abc import Coroutine
from contextlib import AsyncExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helexa.http import Headers, Request
from helexa.http.budget import BodyLimits
from tests.http.test_router import NoBody

FAILURES = (KeyError, ValueError)
ENDINGS = st.none() | st.booleans() | st.sampled_from(FAILURES)
Told = list[tuple[int, type[BaseException] | None]]


class Held:
    """A context that notes with what error it is left, and then ends as it is told to."""

    def __init__(self, number: int, ending: bool | type[Exception] | None, told: Told) -> None:
        self._number = number
        self._ending = ending
        self._told = told

    async def __aenter__(self) -> int:
        return self._number

    async def __aexit__(self, kind: type[BaseException] | None, *rest: object) -> bool | None:
        self._told.append((self._number, kind))
        if isinstance(self._ending, type):
            raise self._ending
        return self._ending


def at_once(steps: Coroutine[object, None, None]) -> None:
    """Run what waits for nothing."""
    try:
        steps.send(None)
    except StopIteration:
        return
    raise AssertionError("it waits")


@given(st.lists(ENDINGS, max_size=5), st.none() | st.sampled_from(FAILURES))
def test_what_is_held_is_left(
    endings: list[bool | type[Exception] | None], error: type[Exception] | None
) -> None:
    """In reverse order, each with the last error, whatever the others do."""

    async def by_request(told: Told) -> None:
        request = Request("GET", "/", "", Headers([]), NoBody(), limits=BodyLimits(9))
        for number, ending in enumerate(endings):
            assert await request.hold(Held(number, ending, told)) == number
        await request.release(None if error is None else error())
        with pytest.raises(RuntimeError):
            await request.hold(Held(0, None, told))

    async def by_stack(told: Told) -> None:
        async with AsyncExitStack() as stack:
            for number, ending in enumerate(endings):
                await stack.enter_async_context(Held(number, ending, told))
            given = None if error is None else error()
            await stack.pop_all().__aexit__(type(given) if given else None, given, None)

    ours, theirs = Told(), Told()
    outcomes = []
    for leave, told in ((by_request, ours), (by_stack, theirs)):
        try:
            at_once(leave(told))
        except FAILURES as raised:
            outcomes.append(type(raised))
        else:
            outcomes.append(None)
    assert ours == theirs
    assert outcomes[0] == outcomes[1]
