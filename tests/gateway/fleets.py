"""States of a gateway over mocks, filled by hand, with a clock that a test moves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import pytest

from helexa.errors import HelexaError
from helexa.gateway.catalogue import Catalogue, Profile
from helexa.gateway.config import GatewayConfig, NeuronEntry
from helexa.gateway.fleet import Entry, Fleet, Node
from helexa.gateway.lifecycle import Loads
from helexa.gateway.router import resolve
from helexa.gateway.state import State
from helexa.http import Client, ClientConfig
from helexa.protocol.control import DeviceHealth, DeviceInfo, DiscoveryResponse, ModelLoad, Servable
from tests.gateway.mocks import MockNeuron

AnyError = TypeVar("AnyError", bound=HelexaError)

SQ = Servable(
    ok=False,
    reason="insufficient_vram",
    detail="1405 MiB free, need at least 1500 MiB to start a prefill",
)
HEAD_S = 0.2
"""The client's own patience, which must not cut what has a limit of its own."""
TIERS = {
    "flagship": Profile("flagship", residency_priority=300, pinned_on=("mock-node",)),
    "frontier": Profile("frontier", residency_priority=300),
    "image": Profile("image", residency_priority=200),
    "mid": Profile("mid", residency_priority=200),
    "tiny": Profile("tiny", residency_priority=100),
}


@dataclass
class Clock:
    """A clock that stands still until it is moved."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def catalogue(*profiles: Profile, **aliases: str) -> Catalogue:
    """A catalogue of these profiles."""
    return Catalogue({profile.id: profile for profile in profiles}, aliases)


def discovery(*totals_mb: int) -> DiscoveryResponse:
    """A host with devices of these sizes."""
    devices = tuple(
        DeviceInfo(index=i, name="GPU", vram_total_mb=mb) for i, mb in enumerate(totals_mb)
    )
    return DiscoveryResponse(devices=devices, max_prompt_tokens=4096)


def readings(*free_mb: int) -> dict[int, DeviceHealth]:
    """A reading of devices, by what is free."""
    return {
        i: DeviceHealth(index=i, vram_used_mb=0, vram_free_mb=mb) for i, mb in enumerate(free_mb)
    }


def node(
    name: str = "mock-node",
    endpoint: str = "http://127.0.0.1:9",
    free_mb: tuple[int, ...] = (),
    total_mb: int = 32768,
    **facts: Any,
) -> Node:
    """A healthy node with devices of 32 GiB, of which so much is free; ``facts`` change it."""
    host = discovery(*(total_mb for _ in free_mb))
    usual = {"healthy": True, "discovery": host, "device_health": readings(*free_mb)}
    return Node(name, endpoint, **(usual | facts))


def load(in_flight: int, queue_depth: int, id: str = "test-model") -> ModelLoad:
    """How busy a model is."""
    return ModelLoad(id=id, in_flight=in_flight, queue_depth=queue_depth)


def loaded(*models: str, vram_mb: int | None = 8000, **facts: Any) -> dict[str, Entry]:
    """Entries of loaded models."""
    return {id: Entry(id, vram_estimate_mb=vram_mb, **facts) for id in models}


def configured(**sections: Mapping[str, Any]) -> GatewayConfig:
    """A configuration; ``sections`` change settings by section."""
    config = GatewayConfig(neurons=(NeuronEntry("mock-node", "http://127.0.0.1:9"),))
    changed = {name: replace(getattr(config, name), **given) for name, given in sections.items()}
    return replace(config, **changed)


@asynccontextmanager
async def gateway(
    *nodes: Node | MockNeuron,
    catalogue: Catalogue | None = None,
    clock: Clock | None = None,
    **sections: Mapping[str, Any],
) -> AsyncIterator[State]:
    """A state over these nodes, with its connections and loads; a mock is `mock-node`, as in GW."""
    fleet = Fleet.of(
        given if isinstance(given, Node) else node(endpoint=given.url, entries=loaded("test-model"))
        for given in nodes
    )
    async with Client(ClientConfig(first_byte_timeout_s=HEAD_S)) as client:
        state = State(configured(**sections), fleet, client, catalogue or Catalogue())
        if clock is not None:
            state.clock = clock
        async with Loads(state):
            yield state


def host(mock: MockNeuron, name: str = "mock-node", **facts: Any) -> Node:
    """A healthy node at a mock, with one roomy device and nothing loaded."""
    return node(name, mock.url, **({"free_mb": (32_000,)} | facts))


async def refused(state: State, kind: type[AnyError], model: str = "test-model") -> AnyError:
    """The error of resolving a model."""
    with pytest.raises(kind) as caught:
        await resolve(state, model)
    return caught.value
