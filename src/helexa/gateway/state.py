"""What a gateway holds between requests, in one value that tests can fill by hand."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio

from helexa.gateway.catalogue import Catalogue
from helexa.gateway.catalogue_file import CatalogueFile
from helexa.gateway.config import GatewayConfig
from helexa.gateway.entitlements.provider import Provider
from helexa.gateway.fleet import Fleet
from helexa.gateway.metrics import Metrics
from helexa.http import Client

if TYPE_CHECKING:
    from helexa.gateway.lifecycle import Loads


@dataclass(slots=True)
class State:
    """Configuration, catalogue, fleet, the connections to it, and what is counted.

    ``catalogue_file``: where a newer catalogue may be found; its `check` and `reload` return the
    one in force. ``clock`` is monotonic, in seconds: what `fleet` measures in. ``loads`` runs cold
    loads while it is entered. ``wakes``: set one to have its node polled now. ``provider``: keys
    and budgets, None where there are none. ``draining``: nothing new is taken any more. ``ping_s``:
    the longest silence in a stream of messages.
    """

    config: GatewayConfig
    fleet: Fleet
    client: Client
    catalogue: Catalogue = field(default_factory=Catalogue)
    catalogue_file: CatalogueFile | None = None
    clock: Callable[[], float] = time.monotonic
    loads: Loads | None = None
    wakes: dict[str, anyio.Event] = field(default_factory=dict)
    provider: Provider | None = None
    draining: bool = False
    ping_s: float = 10.0
    metrics: Metrics = field(init=False)

    def __post_init__(self) -> None:
        self.metrics = Metrics(self.fleet)
