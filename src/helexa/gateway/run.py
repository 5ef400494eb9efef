"""A gateway from its start to its end: ledger, ports, poller, a drain on a signal."""

from __future__ import annotations

import logging
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

import anyio
from anyio.abc import TaskStatus

from helexa.daemon.descriptors import fitted, raise_limit
from helexa.daemon.heap import keep_heap_small
from helexa.errors import ConfigError
from helexa.gateway.api.errors import render
from helexa.gateway.app import App, build_app, server_config
from helexa.gateway.catalogue_file import CatalogueFile
from helexa.gateway.config import GatewayConfig
from helexa.gateway.config_layers import Loaded
from helexa.gateway.entitlements.opening import open_provider
from helexa.gateway.entitlements.provider import Provider
from helexa.gateway.fleet import Fleet, Node
from helexa.gateway.lifecycle import Loads
from helexa.gateway.metrics import CONTENT_TYPE
from helexa.gateway.poller import watch
from helexa.gateway.refusals import LedgerUnusable
from helexa.gateway.state import State
from helexa.http import AsgiApp, Client, ClientConfig, Request, Response, Server, ServerConfig
from helexa.http.faults import BindError
from helexa.http.response import cause_of

STOP = (signal.SIGINT, signal.SIGTERM)
OPTIONS = ("--listen", "--metrics-listen")

log = logging.getLogger("helexa.gateway")


class Gateway:
    """One gateway: what it knows, its API, and what keeps both up to date.

    ``environ`` tells where a ledger may be.
    """

    def __init__(
        self, config: GatewayConfig, catalogue: CatalogueFile, environ: Mapping[str, str]
    ) -> None:
        fleet = Fleet.of(
            Node(entry.name, entry.endpoint, entry.bearer, entry.allow_hosts)
            for entry in config.neurons
        )
        client = Client(client_config(config))
        self.state = State(config, fleet, client, catalogue.catalogue, catalogue)
        self.app: App = build_app(self.state)
        self._environ = environ

    def reload(self) -> None:
        """Read the catalogue anew."""
        if self.state.catalogue_file is not None:
            self.state.catalogue = self.state.catalogue_file.reload()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Gateway]:
        """The ledger open, the neurons watched; all ended with the block. Raises LedgerUnusable."""
        state = self.state
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(state.client)
            state.provider = await stack.enter_async_context(self._ledger())
            await stack.enter_async_context(Loads(state))
            tasks = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(tasks.cancel_scope.cancel)
            tasks.start_soon(watch, state)
            if state.provider is not None:
                tasks.start_soon(state.provider.keep)
            yield self

    def _ledger(self) -> AbstractAsyncContextManager[Provider | None]:
        config = self.state.config
        return open_provider(config.entitlements, config.upstream, self._environ, self.state.client)

    def asgi(self) -> AsgiApp:
        """The gateway as an ASGI app, which starts and ends it."""
        return AsgiApp(
            self.app,
            lifespan=self.running,
            max_body_bytes=self.state.config.limits.max_body_bytes,
            render=render,
            observe=self.app.observe,
        )


class Servers:
    """The two listeners of a gateway: its API, and what Prometheus reads."""

    def __init__(self, gateway: Gateway) -> None:
        app, self._state = gateway.app, gateway.state
        listen = self._state.config.gateway
        host, port = split_address(listen.listen)
        limits = fitted(
            *(server_config(self._state, host, port), raise_limit()),
            key="limits.max_connections",
            each=2,
        )
        self.api = Server(app, limits, render=render, observe=app.observe, refused=app.refused)
        self.metrics: Server | None = None
        if listen.metrics_listen:
            host, port = split_address(listen.metrics_listen)
            self.metrics = Server(self._scrape, ServerConfig(host=host, port=port))

    async def bind(self, options: tuple[str, str] = OPTIONS) -> None:
        """Take both ports; ``options`` are what another one is chosen by. Raises BindError."""
        if self.api.port:
            return
        for server, option in zip((self.api, self.metrics), options, strict=True):
            if server is not None:
                await _bind(server, option)
        told = {
            "listen": self.api.url,
            "metrics_listen": self.metrics.url if self.metrics is not None else None,
            "neurons": len(self._state.fleet.nodes),
        }
        log.info("gateway started", extra={"fields": told})

    async def serve(self, leaving: anyio.Event) -> None:
        """Serve until ``leaving`` is set, then drain. Raises BindError."""
        await self.bind()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._stop_after, leaving)
            if self.metrics is not None:
                tasks.start_soon(self.metrics.serve)
            await self.api.serve()
            tasks.cancel_scope.cancel()

    def stop_now(self) -> None:
        """End what runs without waiting for it any longer."""
        self.api.stop(0.0)

    async def _stop_after(self, leaving: anyio.Event) -> None:
        await leaving.wait()
        self._state.draining = True
        self.api.stop(self._state.config.gateway.drain_timeout_secs)

    async def _scrape(self, request: Request) -> Response:
        return Response(self._state.metrics.text(), media_type=CONTENT_TYPE)


async def _bind(server: Server, option: str) -> None:
    try:
        await server.bind()
    except BindError as error:
        host, port = server.config.host, server.config.port
        raise BindError(
            f"cannot listen on {join_address(host, port)}: {error.reason}",
            reason=error.reason,
            hint=f"choose another with {option}",
        ) from error


def client_config(config: GatewayConfig) -> ClientConfig:
    """How neurons are talked to."""
    proxy = config.proxy
    return ClientConfig(
        connect_timeout_s=proxy.connect_timeout_secs,
        first_byte_timeout_s=proxy.non_stream_timeout_secs,
        idle_timeout_s=proxy.idle_timeout_secs,
    )


async def run_gateway(loaded: Loaded, catalogue: CatalogueFile, environ: Mapping[str, str]) -> int:
    """Serve until a signal, then drain; the exit status, 1 if requests were cut off.

    Raises BindError, and ConfigError for a ledger that cannot be used.
    """
    gateway = Gateway(loaded.config, catalogue, environ)
    servers = Servers(gateway)
    leaving = anyio.Event()
    try:
        async with gateway.running(), anyio.create_task_group() as tasks:
            await tasks.start(_obey_signals, gateway, servers, leaving)
            tasks.start_soon(keep_heap_small)
            await servers.serve(leaving)
            tasks.cancel_scope.cancel()
    except LedgerUnusable as error:
        raise ConfigError(str(loaded.path), [str(error)]) from error
    except BaseExceptionGroup as group:
        raise cause_of(group) from None
    log.info("shutdown complete")
    return 1 if gateway.app.cut else 0


async def reload_on_hangup(gateway: Gateway) -> None:
    """Read the catalogue anew at every SIGHUP."""
    with anyio.open_signal_receiver(signal.SIGHUP) as signals:
        async for _ in signals:
            gateway.reload()


async def _obey_signals(
    gateway: Gateway,
    servers: Servers,
    leaving: anyio.Event,
    *,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    with anyio.open_signal_receiver(*STOP, signal.SIGHUP) as signals:
        task_status.started()
        async for number in signals:
            if number == signal.SIGHUP:
                gateway.reload()
            elif leaving.is_set():
                servers.stop_now()
            else:
                log.info("%s: shutting down", signal.Signals(number).name)
                leaving.set()


def join_address(host: str, port: int) -> str:
    """`host:port`, an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `host:port`, where an IPv6 host is in brackets."""
    host, _, port = address.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)
