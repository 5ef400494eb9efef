"""A daemon from its start to its end: look, bind, serve, drain on a signal, leave nothing."""

from __future__ import annotations

import logging
import math
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
from anyio.abc import TaskStatus

from helexa.http import Server
from helexa.http.response import cause_of
from helexa.neuron.api.answering import render
from helexa.neuron.app import Neuron
from helexa.neuron.descriptors import fitted, raise_limit
from helexa.neuron.heap import keep_heap_small

SIGNALS = (signal.SIGINT, signal.SIGTERM)

log = logging.getLogger(__name__)


async def run(
    neuron: Neuron, ready: Callable[[Server], Coroutine[Any, Any, None]] | None = None
) -> None:
    """Serve until a signal, then drain. Raises BindError, and what ``ready`` raises.

    ``ready`` is called, in a task of its own, once the port is bound. Signals are heard from the
    beginning to the end; a second one ends the process at once, and its children with it.
    """
    config = fitted(neuron.server_config(), raise_limit())
    server = Server(
        *(neuron.router(), config), render=render, observe=neuron.observe, refused=neuron.refused
    )

    async def bind() -> None:
        if not neuron.closing:  # a signal may have come before
            await server.bind()
            neuron.port = server.port
            log.info("listening on %s", server.url)

    try:
        async with anyio.create_task_group() as tasks:
            await tasks.start(_stop_on_signal, neuron, server)
            async with neuron.running(bind), anyio.create_task_group() as serving:
                if server.port:
                    serving.start_soon(keep_heap_small)
                    if ready is not None:
                        serving.start_soon(ready, server)
                    await server.serve()
                serving.cancel_scope.cancel()
            tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise cause_of(group) from None
    log.info("shutdown complete")


async def _stop_on_signal(
    neuron: Neuron, server: Server, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    with anyio.open_signal_receiver(*SIGNALS) as signals:
        task_status.started()
        stopping = False
        async with anyio.create_task_group() as tasks:
            async for number in signals:
                if stopping:
                    os._exit(1)  # the children die with us
                stopping = True
                log.info("%s: shutting down", signal.Signals(number).name)
                neuron.stop_taking()
                server.stop(neuron.config.shutdown_drain_secs or math.inf)
                tasks.start_soon(neuron.registry.cancel_loads)
