"""A daemon in this process, on a port of its own, for clients that speak HTTP to it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass

import anyio
import anyio.to_thread

from helexa.http import serving
from helexa.neuron.api.answering import render
from helexa.neuron.app import Neuron
from helexa.neuron.config import NeuronConfig
from helexa.neuron.runtime import Runtime

TINY = "builtin:helexa/tiny"


@dataclass(frozen=True)
class Daemon:
    """Where a running daemon listens, and what it is."""

    url: str
    neuron: Neuron

    @property
    def child(self) -> int:
        """The process id of the built-in model."""
        pid = self.neuron.registry.slots[TINY].host.pid
        assert pid is not None
        return pid


@contextmanager
def running_daemon(config: NeuronConfig) -> Iterator[Daemon]:
    """A daemon on a thread, once its default models are loaded."""
    ready: Future[Daemon] = Future()
    done = threading.Event()

    async def main() -> None:
        neuron = Neuron(config, Runtime(), {})
        async with (
            neuron.running(),
            serving(neuron.router(), neuron.server_config(), render=render) as server,
        ):
            await neuron.activated.wait()
            ready.set_result(Daemon(server.url, neuron))
            await anyio.to_thread.run_sync(done.wait)

    def run() -> None:
        try:
            anyio.run(main)
        except BaseException as error:  # the one who waits is told
            if ready.done():
                raise
            ready.set_exception(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield ready.result(timeout=100)
    finally:
        done.set()
        thread.join(30)
    assert not thread.is_alive()
