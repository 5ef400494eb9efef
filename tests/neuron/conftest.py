"""Both event loops on a clock that jumps, where 300 seconds take no time; and a real daemon."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import trio.testing
from openai import OpenAI

from helexa.neuron.config import AdmissionConfig, EngineSection, NeuronConfig
from helexa.neuron.ids import ModelSpec
from tests.neuron.daemons import TINY, Daemon, running
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
    admission = AdmissionConfig(max_in_flight=4, max_queue_depth=1)
    config = NeuronConfig(
        port=0,
        default_models=(ModelSpec(model_id=TINY),),
        engine=EngineSection(admission=admission),
    )
    with running(config) as daemon:
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
