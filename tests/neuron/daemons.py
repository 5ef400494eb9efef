"""Daemons that run in a thread of the tests, with real models in processes of their own."""

from __future__ import annotations

import logging
import socket
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from json import dumps
from queue import Queue
from typing import Any

import anyio
import anyio.to_thread
import httpx
from prometheus_client.parser import text_string_to_metric_families

from helexa.daemon.logs import TRACE, TextFormatter, fields_of
from helexa.http import serving
from helexa.neuron.api.answering import render
from helexa.neuron.app import Neuron
from helexa.neuron.config import AdmissionConfig, EngineSection, NeuronConfig
from helexa.neuron.discovery import Sampler
from helexa.neuron.ids import ModelSpec
from helexa.neuron.runtime import Runtime, read_runtime
from helexa.neuron.slots import Slot
from helexa.opening import CHILD
from tests.waiting import wait_until

TINY = "builtin:helexa/tiny"
HELLO: Any = [{"role": "user", "content": "Hello!"}]


class Log(logging.Handler):
    """All that is logged, at any level."""

    def __init__(self) -> None:
        super().__init__(TRACE)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def ends(self, request_id: str) -> list[tuple[str, dict[str, Any]]]:
        """The terminal lines of a request: what they are, and their fields."""
        found = [(record.getMessage(), fields_of(record)) for record in self.records]
        return [line for line in found if line[1].get("request_id") == request_id]

    def text(self) -> str:
        return "\n".join(TextFormatter().format(record) for record in self.records)

    @contextmanager
    def listening(self) -> Iterator[Log]:
        logger = logging.getLogger("helexa")
        level = logger.level
        logger.addHandler(self)
        logger.setLevel(TRACE)
        yield self
        logger.removeHandler(self)
        logger.setLevel(level)


@dataclass
class Daemon:
    """A running daemon, who asks it, and what it logs."""

    url: str
    neuron: Neuron
    http: httpx.Client
    log: Log

    def slot(self, id: str = TINY) -> Slot:
        return self.neuron.registry.slots[id]

    def child(self, id: str = TINY) -> int:
        pid = self.slot(id).host.pid
        assert pid is not None
        return pid

    def status(self, id: str = TINY) -> str | None:
        """What the list of models says of one."""
        infos = self.http.get("/models").json()
        return next((info["status"] for info in infos if info["id"] == id), None)

    def end(self, request_id: str) -> tuple[str, dict[str, Any]]:
        """The one line that a request ended with, once it is there."""
        wait_until(lambda: bool(self.log.ends(request_id)))
        (line,) = self.log.ends(request_id)
        return line

    def metrics(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """Every sample by name, without its prefix, and labels."""
        families = text_string_to_metric_families(self.http.get("/metrics").text)
        samples = [sample for family in families for sample in family.samples]
        return {
            (s.name.removeprefix("neuron_"), frozenset(s.labels.items())): s.value for s in samples
        }

    def metric(self, name: str, **labels: str) -> float:
        """One sample; 0 where there is none."""
        return self.metrics().get((name, frozenset(labels.items())), 0)

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.http.post(path, json=body)

    def load(self, model_id: str, **more: Any) -> httpx.Response:
        return self.post("/models/load", model_id=model_id, **more)

    def unload(self, model_id: str, **more: Any) -> httpx.Response:
        return self.post("/models/unload", model_id=model_id, **more)

    def ensure(self, id: str) -> None:
        """Load a model, unless it is there."""
        if self.status(id) is None:
            assert self.load(id).json() == {"status": "loaded"}

    def models(self) -> list[str]:
        """The ids of what is listed."""
        return [info["id"] for info in self.http.get("/models").json()]

    @contextmanager
    def asking(self, path: str, body: Any, request_id: str) -> Iterator[socket.socket]:
        """A client that sends a request, and leaves when the block ends."""
        data = dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            f"x-request-id: {request_id}\r\ncontent-length: {len(data)}\r\n\r\n"
        )
        at = httpx.URL(self.url)
        with socket.create_connection((at.host, at.port or 0), timeout=60) as peer:
            peer.sendall(head.encode() + data)
            yield peer


@contextmanager
def running(
    config: NeuronConfig,
    runtime: Runtime | None = None,
    environ: Mapping[str, str] | None = None,
    *,
    sampler: Sampler | None = None,
    activated: bool = True,
    builder: str = CHILD,
    drain_s: float = 5.0,
) -> Iterator[Daemon]:
    """A daemon, with its default models loaded if ``activated``; no request may have ended twice.

    Without ``runtime`` the environment says how it runs. ``builder`` makes the cores. Who still
    runs ``drain_s`` after the end of the block is told that it ends. No process is started ahead,
    unless ``environ`` says so.
    """
    environ = {"NEURON_WARM_SPARE": "0", **(environ or {})}
    ready: Queue[tuple[str, Neuron]] = Queue()
    done = threading.Event()

    async def main() -> None:
        settings = runtime or read_runtime(environ)
        neuron = Neuron(config, settings, environ, sampler=sampler, builder=builder)
        async with (
            neuron.running(),
            serving(
                *(neuron.router(), neuron.server_config()),
                drain_s=drain_s,
                render=render,
                observe=neuron.observe,
                refused=neuron.refused,
            ) as server,
        ):
            neuron.port = server.port
            if activated:
                await neuron.activated.wait()
            ready.put((server.url, neuron))
            await anyio.to_thread.run_sync(done.wait)

    thread = threading.Thread(target=anyio.run, args=(main,))
    with Log().listening() as log:
        thread.start()
        try:
            url, neuron = ready.get(timeout=100)
            with httpx.Client(base_url=url, timeout=100) as http:
                yield Daemon(url, neuron, http, log)
        finally:
            done.set()
            thread.join(60)
    assert not thread.is_alive()
    ended = Counter(fields_of(r).get("request_id") for r in log.records)
    assert all(count == 1 for id, count in ended.items() if id is not None)


def with_tiny(*, seats: int, places: int) -> NeuronConfig:
    """A daemon that loads the built-in model, with so many seats and places to wait."""
    admission = AdmissionConfig(max_in_flight=seats, max_queue_depth=places)
    return NeuronConfig(
        port=0,
        default_models=(ModelSpec(model_id=TINY),),
        engine=EngineSection(admission=admission),
    )


def started(
    config: NeuronConfig | None = None,
    environ: Mapping[str, str] | None = None,
    *,
    sampler: Sampler | None = None,
) -> AbstractContextManager[Daemon]:
    """A daemon that may still load its default models."""
    config = config or NeuronConfig(port=0)
    return running(config, environ=environ, sampler=sampler, activated=False)


def endless(**more: Any) -> dict[str, Any]:
    """A plain request that runs until somebody ends it."""
    body = {"model": TINY, "prompt": "Once", "max_tokens": 3000, "ignore_eos": True}
    return {**body, "stream": True, **more}


def frames(peer: socket.socket) -> str:
    """All that still comes on a connection, until it is closed or is silent."""
    parts = []
    peer.settimeout(20)
    with suppress(TimeoutError):
        while part := peer.recv(65536):
            parts.append(part)
            if b"\r\n0\r\n\r\n" in b"".join(parts[-2:]):
                break
    return b"".join(parts).decode()
