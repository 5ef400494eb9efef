"""A daemon on a thread of its own, asked over real connections."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Queue
from typing import Any

import anyio
import anyio.to_thread
import httpx

from helexa.http import serving
from helexa.neuron.api.answering import render
from helexa.neuron.app import Neuron
from helexa.neuron.config import NeuronConfig
from helexa.neuron.discovery import Sampler
from helexa.neuron.runtime import read_runtime

TINY = "builtin:helexa/tiny"


@dataclass
class Daemon:
    """A running daemon and a client of it."""

    url: str
    neuron: Neuron
    http: httpx.Client

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.http.post(path, json=body)

    def load(self, model_id: str, **more: Any) -> httpx.Response:
        return self.post("/models/load", model_id=model_id, **more)

    def unload(self, model_id: str, **more: Any) -> httpx.Response:
        return self.post("/models/unload", model_id=model_id, **more)

    def models(self) -> list[str]:
        """The ids of what is listed."""
        return [info["id"] for info in self.http.get("/models").json()]

    def child(self, model_id: str) -> int:
        """The process of a loaded model."""
        pid = self.neuron.registry.slots[model_id].host.pid
        assert pid is not None
        return pid


@contextmanager
def daemon(
    config: NeuronConfig | None = None,
    environ: Mapping[str, str] | None = None,
    *,
    sampler: Sampler | None = None,
) -> Iterator[Daemon]:
    """Serve on a free port; at the end everything is unloaded and the thread is gone."""
    environ = environ or {}
    neuron = Neuron(config or NeuronConfig(port=0), read_runtime(environ), environ, sampler=sampler)
    ready: Queue[str] = Queue()
    done = threading.Event()

    async def main() -> None:
        async with (
            neuron.running(),
            serving(neuron.router(), neuron.server_config(), render=render) as server,
        ):
            neuron.port = server.port
            ready.put(server.url)
            await anyio.to_thread.run_sync(done.wait)

    thread = threading.Thread(target=anyio.run, args=(main,))
    thread.start()
    try:
        url = ready.get(timeout=60)
        with httpx.Client(base_url=url, timeout=100) as http:
            yield Daemon(url, neuron, http)
    finally:
        done.set()
        thread.join(60)
        assert not thread.is_alive()
