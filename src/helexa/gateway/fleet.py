"""What the gateway knows of its neurons: plain data, changed only on the event loop.

Times are seconds of the gateway's monotonic clock; sizes ending in ``_mb`` are MiB. Models are
keyed by their bare id (`Catalogue.bare_id`); an entry knows the id under which its node lists it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from helexa.gateway.catalogue import Catalogue
from helexa.protocol.control import (
    ActivationStatus,
    DeviceHealth,
    DeviceInfo,
    DiscoveryResponse,
    Limit,
    ModelLoad,
    Servable,
)

Status = Literal["loaded", "unloaded", "reloading", "loading", "recovering"]
SERVING: frozenset[str] = frozenset({"loaded", "reloading"})


@dataclass(slots=True)
class Entry:
    """One model on one node.

    ``poisoned``: the node has given up on it until somebody asks again.
    """

    listed_id: str
    status: Status = "loaded"
    last_accessed: float | None = None
    vram_estimate_mb: int | None = None
    devices: tuple[int, ...] = ()
    capabilities: tuple[str, ...] = ()
    limit: Limit | None = None
    tool_call: bool = False
    reasoning: bool = False
    servable: Servable | None = None
    harness: str = "candle"
    poisoned: bool = False

    @property
    def context(self) -> int | None:
        """How many tokens a conversation may have; None if that is not known."""
        return self.limit.context if self.limit is not None and self.limit.context > 0 else None

    @property
    def output(self) -> int | None:
        """How many tokens an answer may have; None if that is not known."""
        return self.limit.output if self.limit is not None and self.limit.output > 0 else None

    @property
    def can_serve(self) -> bool:
        """Whether the node does not say that it cannot take requests."""
        return self.servable is None or self.servable.ok


@dataclass(frozen=True, slots=True)
class Adjustment:
    """What a load or unload did to a device's free memory, until readings have caught up.

    ``floor``: at least so much is free after an unload; else at most so much, after a load.
    """

    free_mb: int
    floor: bool
    until: float


@dataclass(frozen=True, slots=True)
class Backoff:
    """A node failed to load a model, and is left alone ``until`` then.

    ``refused``: it said that it never can; that is forgotten when the ``catalogue`` is another one.
    """

    since: float
    until: float
    cause: str
    refused: bool
    catalogue: Catalogue

    def holds(self, catalogue: Catalogue, now: float) -> bool:
        """Whether it is still in force."""
        return now < self.until and not (self.refused and self.catalogue is not catalogue)


@dataclass(slots=True)
class Node:
    """One neuron.

    ``allow_hosts`` are the hosts, besides its own, that it may name as places where models answer.
    ``own`` counts this gateway's outstanding requests by model, ``own_at_poll`` is what it was when
    ``load`` was read. ``loading`` are the cold loads that this gateway runs there, with their
    beginning; ``leaving`` are models that get no new requests, as another waits for their place.
    ``adjustments`` correct what is free on a device, oldest first. ``probed_at``: when a poisoned
    model was last tried. ``endpoints``: where models answer, and until when that is believed.
    ``warned``: what the log has been told once.
    """

    name: str
    endpoint: str
    bearer: str | None = field(default=None, repr=False)
    allow_hosts: tuple[str, ...] = ()
    healthy: bool = False
    entries: dict[str, Entry] = field(default_factory=dict)
    lifecycle_cycles: int = 0
    last_poll: float | None = None
    discovery: DiscoveryResponse | None = None
    activation: ActivationStatus = field(default_factory=ActivationStatus)
    load: dict[str, ModelLoad] = field(default_factory=dict)
    device_health: dict[int, DeviceHealth] = field(default_factory=dict)
    consecutive_poll_failures: int = 0
    own: dict[str, int] = field(default_factory=dict)
    own_at_poll: dict[str, int] = field(default_factory=dict)
    loading: dict[str, float] = field(default_factory=dict)
    leaving: set[str] = field(default_factory=set)
    adjustments: dict[int, tuple[Adjustment, ...]] = field(default_factory=dict)
    backoff: dict[str, Backoff] = field(default_factory=dict)
    probed_at: dict[str, float] = field(default_factory=dict)
    endpoints: dict[str, tuple[str, float]] = field(default_factory=dict)
    warned: set[str] = field(default_factory=set)

    @property
    def devices(self) -> tuple[DeviceInfo, ...]:
        """Its devices; empty while nothing is known of it."""
        return self.discovery.devices if self.discovery is not None else ()

    def reported(self, model: str) -> int:
        """How many requests a model had there at the last reading, running or waiting."""
        load = self.load.get(model)
        return load.in_flight + load.queue_depth if load is not None else 0

    def arrives(self, model: str) -> None:
        """One more of this gateway's requests is outstanding there."""
        self.own[model] = self.own.get(model, 0) + 1

    def leaves(self, model: str) -> None:
        """One less is."""
        self.own[model] -= 1
        if self.own[model] <= 0:
            del self.own[model]

    def busy(self, model: str) -> int:
        """How many requests a model has there now, as far as that can be known.

        The larger of what this gateway has outstanding, and the last reading corrected by what it
        has sent and finished since.
        """
        own = self.own.get(model, 0)
        return max(own, self.reported(model) + own - self.own_at_poll.get(model, 0))

    def told(self, body: bytes) -> str:
        """A text of this node for the log, without its bearer, should it repeat that."""
        text = body.decode("utf-8", "replace")
        return text.replace(self.bearer, "***") if self.bearer else text

    def drop(self, model: str) -> None:
        """Forget a model, and where it answers."""
        self.entries.pop(model, None)
        self.endpoints.pop(model, None)


@dataclass(slots=True)
class Fleet:
    """All nodes by name, in name order, and what they have said of models that are not loaded.

    ``capability_asked``: when a node was last asked for a model's capabilities.
    """

    nodes: dict[str, Node] = field(default_factory=dict)
    capabilities: dict[str, tuple[str, ...]] = field(default_factory=dict)
    capability_asked: dict[tuple[str, str], float] = field(default_factory=dict)

    @classmethod
    def of(cls, nodes: Iterable[Node]) -> Fleet:
        """A fleet of these nodes."""
        return cls({node.name: node for node in sorted(nodes, key=lambda node: node.name)})

    @property
    def healthy(self) -> list[Node]:
        """The nodes that answer, in name order."""
        return [node for node in self.nodes.values() if node.healthy]
