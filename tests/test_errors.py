"""Errors as plain objects: they go through pools of processes as they are."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from helexa import errors, refusals
from helexa.errors import CapacityError, HelexaError, OutOfMemory, PreflightError, PromptTooLong

MADE: list[HelexaError] = [
    PromptTooLong(9, 5),
    CapacityError("too much", required_mb=9, budget_mb=5, hint="take less"),
    PreflightError("repo_fetch_failed", "no such model", available=["a"], details={"n": 1}),
    OutOfMemory("no memory", required_mb=9, free_mb=5),
    refusals.UnknownUrl("GET", "/nope"),
]


def kinds(of: type[HelexaError]) -> Iterator[type[HelexaError]]:
    yield of
    for kind in of.__subclasses__():
        yield from kinds(kind)


@pytest.mark.parametrize("through", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy])
@pytest.mark.parametrize("error", MADE, ids=lambda error: type(error).__name__)
def test_a_copy_says_the_same(
    error: HelexaError, through: Callable[[HelexaError], HelexaError]
) -> None:
    made = through(error)
    assert type(made) is type(error)
    assert (str(made), made.args, vars(made)) == (str(error), error.args, vars(error))
    assert (made.code, made.status, made.extras) == (error.code, error.status, error.extras)


def test_no_class_has_a_way_of_its_own() -> None:
    for kind in kinds(errors.HelexaError):
        assert kind.__reduce__ is HelexaError.__reduce__


def refuse(_: int) -> None:
    raise PromptTooLong(9, 5)


def test_a_worker_that_fails_tells_its_pool() -> None:
    told = pytest.raises(PromptTooLong, match="the prompt has 9 tokens, at most 5 fit")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool, told:
        pool.submit(refuse, 1).result(60)
