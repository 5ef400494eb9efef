"""A server: listeners, their connections, one clock over them all, and an orderly end.

    async with serving(router, ServerConfig(port=8080)) as server:
        print(server.url)

or, in a task of one's own (a task group's, or a notebook's ``asyncio.create_task``),
``await server.serve()`` until somebody calls ``server.stop()``.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
from anyio.abc import SocketAttribute, SocketListener, TaskGroup, TaskStatus

from helexa.errors import HelexaError
from helexa.http.arrivals import Arrival, Arrivals, Secure
from helexa.http.config import ServerConfig, Tls
from helexa.http.connection import Connection, Service
from helexa.http.exchange import Handler
from helexa.http.faults import BindError
from helexa.http.occasional import Occasional
from helexa.http.request import Observe
from helexa.http.response import Render, cause_of, render_error
from helexa.http.wire import BROKEN
from helexa.refusals import ShuttingDown, Unavailable

logger = logging.getLogger("helexa.http")

_OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_PAUSE_S, _BREATH_S = 0.1, 0.001
_MAX_REFUSING = 256

Refused = Callable[[HelexaError], None]


class Server:
    """Answers HTTP/1.1 requests with one handler (a `Router`, mostly), on asyncio or trio.

    ``render`` gives errors their form; ``observe`` is told of every request that ended, ``refused``
    of what was answered before there was a request. `serve` runs once. `stop` may be called from
    any task of the loop; a running request that outlives the drain is ended with ``ShuttingDown``.
    Timeouts are measured by ``clock``, in seconds.
    """

    def __init__(
        self,
        handler: Handler,
        config: ServerConfig | None = None,
        *,
        render: Render = render_error,
        observe: Observe | None = None,
        refused: Refused = lambda error: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config or ServerConfig()
        self.port = 0
        self._service = Service(handler, self.config, render, observe, clock, refused=refused)
        self.connections = 0
        self._connections: set[Connection] = set()
        self._refusing = 0
        self._most_refusing = max(8, min(_MAX_REFUSING, self.config.max_connections // 4))
        self._starved = Occasional(clock)
        self._secure: Secure | None = None
        self._listeners: list[SocketListener] = []
        self._bound = anyio.Event()
        self._failure: BindError | None = None
        self._stopping = anyio.Event()
        self._drain_s = math.inf
        self._changed = anyio.Event()

    @property
    def url(self) -> str:
        """Where this server can be reached from its own machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.config.host, self.config.host)
        scheme = "http" if self.config.tls is None else "https"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def running(self) -> int:
        """How many requests are being answered."""
        return sum(connection.busy for connection in self._connections)

    async def ready(self) -> None:
        """Return once the port is bound. Raises BindError if it cannot be."""
        await self._bound.wait()
        if self._failure is not None:
            raise self._failure

    def stop(self, drain_s: float = math.inf) -> None:
        """Accept no more, let running requests finish for ``drain_s``, then end them.

        A second call may shorten the time.
        """
        self._drain_s = min(drain_s, self._drain_s)
        self._stopping.set()
        self._wake()

    async def bind(self) -> None:
        """Take the port; `serve` does it if nobody did. Raises BindError."""
        if self._bound.is_set():
            return
        host, port = self.config.host, self.config.port
        try:
            if self.config.tls is not None:
                self._secure = Secure(_tls_context(self.config.tls), self.config.header_timeout_s)
            found = await anyio.create_tcp_listener(local_host=host, local_port=port, backlog=4096)
            self._listeners = [item for item in found.listeners if isinstance(item, SocketListener)]
            self.port = self._listeners[0].extra(SocketAttribute.local_port)
        except OSError as error:
            reason = _reason(error)
            self._failure = BindError(f"cannot bind {host}:{port}: {reason}", reason=reason)
            raise self._failure from error
        except BindError as error:
            self._failure = error
            raise
        finally:
            self._bound.set()

    async def serve(self, *, task_status: TaskStatus[int] = anyio.TASK_STATUS_IGNORED) -> None:
        """Bind, report the port, serve until `stop` has done its work. Raises BindError."""
        await self.bind()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._watch)
                async with anyio.create_task_group() as accepting:
                    for listener in self._listeners:
                        accepting.start_soon(self._accept, listener, tasks)
                    task_status.started(self.port)
                    await self._stopping.wait()
                    accepting.cancel_scope.cancel()
                await self._close_listeners()
                await self._drain()
                tasks.cancel_scope.cancel()
        finally:
            await self._close_listeners()

    # ------------------------------------------------------------------------ connections

    async def _accept(self, listener: SocketListener, tasks: TaskGroup) -> None:
        config, arrivals = self.config, Arrivals(listener, self._secure)
        while True:
            if config.when_full == "wait":
                await self._until(lambda: self.connections < config.max_connections)
            try:
                arrival = await arrivals.next()
            except OSError as error:  # of that one connection, or of all there will be for a while
                if error.errno in _OUT_OF_RESOURCES and (times := self._starved.happened()):
                    logger.warning("cannot accept a connection: %s (%d times)", error, times)
                await anyio.sleep(_PAUSE_S if error.errno in _OUT_OF_RESOURCES else _BREATH_S)
                continue
            full = self.connections >= config.max_connections
            self.connections += not full
            self._refusing += full
            tasks.start_soon(self._refuse if full else self._welcome, arrival)

    async def _welcome(self, arrival: Arrival) -> None:
        try:
            await self._talk(arrival, Connection.run)
        finally:
            self.connections -= 1
            self._wake()

    async def _refuse(self, arrival: Arrival) -> None:
        full = f"all {self.config.max_connections} connections are in use"
        error = Unavailable(full, retry_after_s=1)

        async def refuse(connection: Connection) -> None:
            await connection.refuse(error)

        try:
            if self._refusing <= self._most_refusing:
                await self._talk(arrival, refuse)
        finally:
            self._refusing -= 1
            await arrival.close()

    async def _talk(self, arrival: Arrival, talk: Callable[[Connection], Awaitable[None]]) -> None:
        """Serve one connection; whatever goes wrong with it ends only this one."""
        try:
            connection = Connection(await arrival.open(), self._service, self._wake)
            self._connections.add(connection)
            try:
                await talk(connection)
            finally:
                self._connections.discard(connection)
        except BROKEN as error:
            logger.debug("a connection failed: %r", error)
        except Exception:  # the edge of a connection: the others go on
            logger.exception("a connection failed")
        finally:
            await arrival.close()

    async def _watch(self) -> None:
        clock = self._service.clock
        while True:
            await anyio.sleep(self.config.tick_s)
            now = clock()
            for connection in self._connections:
                if connection.due <= now:
                    connection.overdue()

    # ------------------------------------------------------------------------------ the end

    async def _drain(self) -> None:
        for connection in self._connections:
            connection.close_when_idle(at_once=self.config.close_idle_on_drain)
        began = anyio.current_time()
        while self.running and (left := began + self._drain_s - anyio.current_time()) > 0:
            with anyio.move_on_after(left):
                await self._change()
        for connection in self._connections:
            if connection.busy:
                connection.abandon(ShuttingDown())
            else:
                connection.close_when_idle(at_once=True)
        with anyio.move_on_after(2 * self.config.linger_s):
            await self._until(lambda: self.connections == 0)

    async def _close_listeners(self) -> None:
        with anyio.CancelScope(shield=True):  # bounded: it closes sockets, nobody is asked
            while self._listeners:
                await self._listeners.pop().aclose()

    def _wake(self) -> None:
        self._changed.set()

    async def _change(self) -> None:
        """Wait until a request or a connection has ended, or `stop` was called again."""
        if self._changed.is_set():
            self._changed = anyio.Event()
        await self._changed.wait()

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self._change()


@asynccontextmanager
async def serving(
    handler: Handler,
    config: ServerConfig | None = None,
    *,
    drain_s: float = 5.0,
    render: Render = render_error,
    observe: Observe | None = None,
    refused: Refused = lambda error: None,
    clock: Callable[[], float] = time.monotonic,
) -> AsyncIterator[Server]:
    """Serve while the block runs, then drain. Raises BindError."""
    server = Server(handler, config, render=render, observe=observe, refused=refused, clock=clock)
    await server.bind()
    try:
        async with anyio.create_task_group() as tasks:
            await tasks.start(server.serve)
            try:
                yield server
            finally:
                server.stop(drain_s)
    except BaseExceptionGroup as group:
        raise cause_of(group) from None


def _reason(error: OSError) -> str:
    """What an error of the network says; those of names have numbers of their own."""
    if isinstance(error, socket.gaierror) or not error.errno:
        return (error.strerror or str(error)).lower()
    return os.strerror(error.errno).lower()


def _tls_context(tls: Tls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(tls.certificate, tls.key)
    except OSError as error:  # ssl.SSLError is one
        raise BindError(f"cannot use the certificate {tls.certificate}: {error}") from error
    return context
