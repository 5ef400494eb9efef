"""A gateway on a real socket in front of mocks, its fleet filled by hand: fixture GW.

async with mock_neuron() as mock, front(mock) as gw:
    answer = await gw.post(BODY)
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import httpx

from helexa.gateway.api.errors import render
from helexa.gateway.app import App, build_app, server_config
from helexa.gateway.catalogue import Catalogue
from helexa.gateway.config import EntitlementsConfig, GatewayConfig, KeyConfig, NeuronEntry
from helexa.gateway.entitlements.opening import open_provider
from helexa.gateway.entitlements.provider import Principal, Snapshot
from helexa.gateway.fleet import Entry, Fleet, Node
from helexa.gateway.lifecycle import Loads
from helexa.gateway.run import client_config
from helexa.gateway.state import State
from helexa.http import Client, Server, serving
from tests.gateway.mocks import MockNeuron

HI: list[dict[str, Any]] = [{"role": "user", "content": "Hi"}]
BODY: dict[str, Any] = {"model": "test-model", "messages": HI}
CHAT_PATH = "/v1/chat/completions"


@dataclass
class Front:
    """A running gateway and a client that asks it."""

    state: State
    app: App
    server: Server
    http: httpx.AsyncClient
    log: list[logging.LogRecord] = field(default_factory=list)

    async def post(
        self,
        body: dict[str, Any] | None = None,
        path: str = CHAT_PATH,
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> httpx.Response:
        """POST a body; BODY if none is given."""
        asked = BODY if body is None else body
        return await self.http.post(path, json=asked | more, headers=dict(headers or {}))

    def node(self, name: str = "mock-node") -> Node:
        return self.state.fleet.nodes[name]

    def entry(self, name: str = "mock-node", model: str = "test-model") -> Entry:
        return self.node(name).entries[model]

    async def spent(self, account: str, key: str) -> Snapshot:
        """A budget, by who pays."""
        assert self.state.provider is not None
        return await self.state.provider.snapshot(Principal(account, key))

    def metric(self, name: str) -> list[str]:
        """The lines of one metric."""
        lines = self.state.metrics.text().decode().splitlines()
        return [line for line in lines if line.startswith((f"{name}{{", f"{name} "))]

    @property
    def outcomes(self) -> list[dict[str, Any]]:
        """The fields of the outcome lines, oldest first."""
        return [r.__dict__["fields"] for r in self.log if r.name == "helexa.gateway.requests"]


def nodes_of(neurons: MockNeuron | Mapping[str, str]) -> dict[str, str]:
    """URLs by name."""
    return dict(neurons) if isinstance(neurons, Mapping) else {"mock-node": neurons.url}


def key(secret: str, account_id: str, key_id: str, **more: Any) -> KeyConfig:
    """One key of the configuration."""
    return KeyConfig(key=secret, account_id=account_id, key_id=key_id, **more)


def configured(
    neurons: Mapping[str, str], keys: tuple[KeyConfig, ...], require_auth: bool, **sections: Any
) -> GatewayConfig:
    """A configuration; ``sections`` are dictionaries of settings by section."""
    config = GatewayConfig(
        neurons=tuple(NeuronEntry(name, url) for name, url in neurons.items()),
        entitlements=EntitlementsConfig(require_auth=require_auth, keys=keys, ledger="memory"),
    )
    changed = {name: replace(getattr(config, name), **given) for name, given in sections.items()}
    return replace(config, **changed)


@contextmanager
def logged() -> Iterator[list[logging.LogRecord]]:
    """What helexa logs while the block runs."""
    records: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    root, keep = logging.getLogger("helexa"), Keep(5)
    level = root.level
    root.addHandler(keep)
    root.setLevel(5)
    try:
        yield records
    finally:
        root.removeHandler(keep)
        root.setLevel(level)


@asynccontextmanager
async def front(
    neurons: MockNeuron | Mapping[str, str],
    *,
    keys: tuple[KeyConfig, ...] = (),
    require_auth: bool = False,
    catalogue: Catalogue | None = None,
    seeded: bool = True,
    patience: Mapping[str, float] | None = None,
    **sections: Any,
) -> AsyncIterator[Front]:
    """GW: no poller, every node healthy with `test-model` loaded (unless not ``seeded``).

    ``patience`` changes limits of the server that no configuration has.
    """
    urls = nodes_of(neurons)
    config = configured(urls, keys, require_auth, **sections)
    fleet = Fleet.of(Node(name, url) for name, url in urls.items())
    for node in fleet.nodes.values() if seeded else ():
        node.healthy = True
        node.entries["test-model"] = Entry("test-model", vram_estimate_mb=8000)
    async with AsyncExitStack() as stack:
        log = stack.enter_context(logged())
        client = await stack.enter_async_context(Client(client_config(config)))
        state = State(config=config, fleet=fleet, client=client)
        state.catalogue = catalogue or Catalogue()
        state.provider = await stack.enter_async_context(
            open_provider(config.entitlements, config.upstream, {}, client)
        )
        state.loads = await stack.enter_async_context(Loads(state))
        app = build_app(state)
        limits = replace(server_config(state, "127.0.0.1", 0), **(patience or {}))  # type: ignore[arg-type]  # any field
        server = await stack.enter_async_context(
            serving(app, limits, drain_s=0.0, render=render, observe=app.observe)
        )
        http = await stack.enter_async_context(
            httpx.AsyncClient(base_url=server.url, timeout=20, trust_env=False)
        )
        yield Front(state, app, server, http, log)
