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

from helexa.daemon.descriptors import fitted, raise_limit
from helexa.daemon.heap import keep_heap_small
from helexa.http import Server
from helexa.http.response import cause_of
from helexa.neuron.api.answering import render
from helexa.neuron.app import Neuron

SIGNALS = (signal.SIGINT, signal.SIGTERM)

log = logging.getLogger(__name__)


Beside = Callable[[Server, anyio.Event], Coroutine[Any, Any, None]]
"""What runs while a daemon serves: it gets the server, and an event after which it is to end."""


async def run(neuron: Neuron, beside: Beside | None = None) -> None:
    """Serve until a signal, then drain. Raises BindError, and what ``beside`` raises.

    ``beside`` is called, in a task of its own, once the port is bound, and has ended before the
    drain begins. Signals are heard from the beginning to the end; a second one ends the process at
    once, and its children with it.
    """
    config = fitted(neuron.server_config(), raise_limit())
    server = Server(
        *(neuron.router(), config), render=render, observe=neuron.observe, refused=neuron.refused
    )

    leaving = anyio.Event()
    alone = anyio.Event()
    if beside is None:
        alone.set()

    async def accompany(beside: Beside) -> None:
        try:
            await beside(server, leaving)
        finally:
            alone.set()

    async def bind() -> None:
        if not neuron.closing:  # a signal may have come before
            await server.bind()
            neuron.port = server.port
            log.info("listening on %s", server.url)

    try:
        async with anyio.create_task_group() as tasks:
            await tasks.start(_stop_on_signal, neuron, server, leaving, alone)
            async with neuron.running(bind), anyio.create_task_group() as serving:
                if server.port:
                    serving.start_soon(keep_heap_small)
                    if beside is not None:
                        serving.start_soon(accompany, beside)
                    await server.serve()
                serving.cancel_scope.cancel()
            tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise cause_of(group) from None
    log.info("shutdown complete")


async def _stop_on_signal(
    neuron: Neuron,
    server: Server,
    leaving: anyio.Event,
    alone: anyio.Event,
    *,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    async def stop() -> None:
        if server.port:
            await alone.wait()
        neuron.stop_taking()
        server.stop(neuron.config.shutdown_drain_secs or math.inf)
        await neuron.registry.cancel_loads()

    with anyio.open_signal_receiver(*SIGNALS) as signals:
        task_status.started()
        async with anyio.create_task_group() as tasks:
            async for number in signals:
                if leaving.is_set():
                    os._exit(1)  # the children die with us
                leaving.set()
                log.info("%s: shutting down", signal.Signals(number).name)
                tasks.start_soon(stop)
