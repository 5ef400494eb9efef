"""Both event loops on a clock that jumps, where 300 seconds take no time; and a real daemon."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import trio.testing
from openai import OpenAI

from helexa.neuron.recovery import Policy
from tests.neuron.daemons import Daemon, running, with_tiny
from tests.neuron.plays import Troupe
from tests.neuron.stages import QUICK, Stage
from tests.neuron.virtual_time import JumpingLoop


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    if request.param == "trio":
        return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}
    return "asyncio", {"loop_factory": JumpingLoop}


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """One with the built-in model, that its tests leave as they found it.

    Four seats, three of them for anonymous callers; one more request may wait.
    """
    with running(with_tiny(seats=4, places=1)) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def client(daemon: Daemon) -> Iterator[OpenAI]:
    """The official client, as an anonymous caller."""
    with OpenAI(base_url=f"{daemon.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def http(daemon: Daemon) -> Iterator[httpx.Client]:
    """A plain client, for what the official one has no words for."""
    with httpx.Client(base_url=daemon.url, timeout=60) as http:
        yield http


@pytest.fixture(scope="module")
def troupe(tmp_path_factory: pytest.TempPathFactory) -> Troupe:
    """Scripted models, of which there is one, `X`."""
    troupe = Troupe(tmp_path_factory.mktemp("models"))
    troupe.model("x")
    return troupe


@pytest.fixture
def stages() -> Iterator[Callable[..., Stage]]:
    """Makes models that have been loaded and may be lost."""
    made: list[Stage] = []

    def make(policy: Policy = QUICK) -> Stage:
        stage = Stage(policy)
        made.append(stage)
        stage.host.start()
        return stage

    yield make
    for stage in made:
        stage.host.close()
