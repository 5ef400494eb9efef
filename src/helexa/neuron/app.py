"""The daemon, wired: what it holds, its routes, its start and its end."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from helexa.daemon.build import build_info
from helexa.engine.process.children import Nursery
from helexa.errors import HelexaError, InvalidRequest
from helexa.http import AsgiApp, Ending, Request, Response, Router, ServerConfig
from helexa.http.occasional import Occasional
from helexa.neuron.activation import ActivationTracker, activate
from helexa.neuron.admission import ACCOUNT_HEADER, KEY_HEADER, principal_of
from helexa.neuron.api import chat as surfaces
from helexa.neuron.api import control, images, tokens
from helexa.neuron.api.answering import render
from helexa.neuron.bearer import may_enter, required_bearer
from helexa.neuron.config import NeuronConfig
from helexa.neuron.discovery import Hardware, Sampler
from helexa.neuron.ids import HARNESS, ModelSpec, find_slot
from helexa.neuron.machine import read_machine
from helexa.neuron.metrics import Metrics, Present, Surface
from helexa.neuron.registry import Registry
from helexa.neuron.runtime import Runtime
from helexa.neuron.slots import Loader, Slot
from helexa.neuron.sources import Sources
from helexa.neuron.story import STORY, Story, story_of
from helexa.neuron.threads import Threads
from helexa.opening import CHILD
from helexa.refusals import CudaUnavailable, DriverSilent, InvalidApiKey, NoHarness, ShuttingDown

Handler = Callable[["Neuron", Request], Awaitable[Response]]

ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("GET", "/version", control.version),
    ("GET", "/discovery", control.discovery),
    ("GET", "/health", control.health),
    ("GET", "/models", control.models),
    ("GET", "/models/{id}/endpoint", control.endpoint),
    ("GET", "/models/{id}/capabilities", control.capabilities),
    ("POST", "/models/load", control.load),
    ("POST", "/models/unload", control.unload),
    ("GET", "/v1/models", control.openai_models),
    ("GET", "/v1/models/{id:path}", control.openai_model),
    ("GET", "/metrics", control.metrics),
    ("POST", "/tokenize", tokens.tokenize),
    ("POST", "/detokenize", tokens.detokenize),
    ("POST", "/v1/tokenize", tokens.tokenize),
    ("POST", "/v1/detokenize", tokens.detokenize),
)

SURFACES: tuple[tuple[str, Surface, Handler], ...] = (
    ("/v1/chat/completions", "chat", surfaces.chat),
    ("/v1/completions", "completions", surfaces.completions),
    ("/v1/responses", "responses", surfaces.responses),
    ("/v1/images/generations", "images", images.generate),
)
SURFACE_OF = {pattern: surface for pattern, surface, _ in SURFACES}
PRINCIPAL = (ACCOUNT_HEADER, KEY_HEADER)

log = logging.getLogger(__name__)


class Neuron:
    """One host's models behind HTTP. ``port`` is set by whoever binds one; ``closing``: it ends.

    ``builder`` is what makes the core in a child process (see `worker`); tests have their own.
    ``dedicated`` False leaves most of the host's memory to what else runs there.
    """

    def __init__(
        self,
        config: NeuronConfig,
        runtime: Runtime,
        environ: Mapping[str, str],
        *,
        sampler: Sampler | None = None,
        builder: str = CHILD,
        dedicated: bool = True,
    ) -> None:
        self.config = config
        self.runtime = runtime
        self.environ = environ
        self.build = build_info(environ)
        self.port = config.port
        self.activation = ActivationTracker(spec.model_id for spec in config.default_models)
        self.activated = anyio.Event()
        self._began_s = time.monotonic()
        self._machine = read_machine()
        self._sampler = sampler or Sampler()
        self.threads = Threads()
        self._nursery = Nursery(warm=runtime.warm_spare, builder=builder)
        self._bearer = required_bearer(config.auth_env, environ)
        self._refusals = Occasional(time.monotonic)
        self._tasks: TaskGroup | None = None
        self.closing = False
        sources = Sources.of(config.engine, environ)
        loader = Loader(config, runtime, sources, self._nursery, environ, dedicated)
        self.metrics = Metrics(self.build, self.present)
        self.registry = Registry(loader, lambda: self.hardware.gpus, self.metrics, self.threads)
        self._trap = runtime.poisoned_model

    @property
    def hardware(self) -> Hardware:
        """The host at its last sample."""
        return Hardware(self._machine, self._sampler.latest, self.config.report_cpu_device)

    @property
    def slots(self) -> list[Slot]:
        """The models that are loaded, or were and are coming back."""
        return list(self.registry.slots.values())

    @property
    def uptime_s(self) -> float:
        return time.monotonic() - self._began_s

    def present(self) -> Present:
        """The daemon at this moment, as the metrics tell it."""
        hardware = self.hardware
        return Present(
            uptime_s=self.uptime_s,
            host=hardware.sample.host.health,
            devices=hardware.device_health,
            models=tuple(slot.model_state() for slot in self.slots),
        )

    def require_engine(self) -> None:
        """Raises NoHarness where no engine is configured."""
        if not self.config.harness_names:
            raise NoHarness(HARNESS)

    def serving(self, model_id: str) -> Slot:
        """The slot for a request. Raises ModelNotFound, ModelRecovering."""
        return self.registry.serving(model_id)

    def springs(self, slot: Slot) -> bool:
        """Whether this request is the one that a test has chosen to kill its model; true once."""
        wanted, default = self._trap, self.registry.sources.default
        if wanted is None or find_slot(wanted, [slot.id], default) is None:
            return False
        self._trap = None
        return True

    async def load(self, spec: ModelSpec) -> None:
        """Load a model; the load goes on when its caller leaves.

        Raises ShuttingDown, CudaUnavailable, DriverSilent, InvalidRequest for the harness, or as
        `Registry.load`.
        """
        tasks = self._tasks
        if self.closing or tasks is None:
            raise ShuttingDown
        if self.hardware.unavailable is not None:
            raise CudaUnavailable(self.hardware.unavailable)
        if not self.hardware.sample.cards.known:
            raise DriverSilent
        if spec.harness not in self.config.harness_names:
            raise InvalidRequest(f"unknown harness '{spec.harness}'")
        done = anyio.Event()
        failures: list[Exception] = []

        async def run() -> None:
            try:
                await self.registry.load(spec, tasks)
            except Exception as error:  # for whoever asked, if they are still there
                failures.append(error)
            finally:
                done.set()

        tasks.start_soon(run)
        await done.wait()
        if failures:
            raise failures[0]

    @asynccontextmanager
    async def running(
        self, bind: Callable[[], Awaitable[None]] = checkpoint
    ) -> AsyncIterator[Neuron]:
        """Sample the host, load the default models, and unload everything at the end.

        ``bind`` is awaited as soon as it is known what the host has, and before anything is loaded.
        """
        try:
            self._sampler.start()
            await self._sampler.first()
            await bind()
            self._began_s = time.monotonic()
            if not self.closing:
                self._nursery.prepare()
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                tasks.start_soon(self._activate)
                try:
                    yield self
                finally:
                    self.stop_taking()
                    tasks.cancel_scope.cancel()
                    await self.registry.cancel_loads()
        finally:
            self._tasks = None
            self._sampler.stop()
            await self.registry.close()
            self._nursery.close()

    def stop_taking(self) -> None:
        """Refuse what comes from now on, and whoever waits for a seat; load no further model."""
        self.closing = True
        self._sampler.wait_no_longer()
        self.registry.close_doors(ShuttingDown)

    def router(self) -> Router:
        """The routes, as a handler for a server or an ASGI app."""
        router = Router(self._require_bearer)
        for method, pattern, handler in ROUTES:
            router.add(method, pattern, partial(handler, self))
        for pattern, surface, handler in SURFACES:
            router.add("POST", pattern, partial(self._infer, surface, handler))
        return router

    def observe(self, request: Request, ending: Ending) -> None:
        """Count a request that has ended, and tell the story of one that wanted an answer."""
        self.metrics.http_request(request.route, request.method, ending.status)
        if STORY in request.context:
            self.metrics.request_ended(story_of(request).end(ending))

    def refused(self, error: HelexaError) -> None:
        """Count what was refused before there was a request, and say so now and then."""
        self.metrics.http_request("", "", error.status)
        if times := self._refusals.happened():
            log.warning("refused before there was a request: %s (%d times)", error, times)

    def asgi(self) -> AsgiApp:
        """The daemon as an ASGI app, which starts and ends it."""
        return AsgiApp(
            self.router(),
            lifespan=self.running,
            max_body_bytes=self.config.http.max_body_mb * 2**20,
            render=render,
            observe=self.observe,
        )

    def server_config(self) -> ServerConfig:
        """The limits of its HTTP server."""
        http = self.config.http
        return ServerConfig(
            host=self.config.host,
            port=self.config.port,
            max_connections=http.max_connections,
            max_body_bytes=http.max_body_mb * 2**20,
            max_head_bytes=http.max_header_kb * 2**10,
            header_timeout_s=http.header_timeout_secs,
            body_timeout_s=http.body_timeout_secs,
            idle_timeout_s=http.idle_timeout_secs,
            write_stall_s=http.write_stall_secs,
            close_idle_on_drain=False,
        )

    async def _infer(self, surface: Surface, handler: Handler, request: Request) -> Response:
        story = Story.of(request, surface)
        with story.watching():
            headers = {name: request.headers.get(name) or "" for name in PRINCIPAL}
            trusted = self.config.trust_principal_headers
            story.line.principal = principal_of(headers, trusted=trusted)
            if self.closing:
                raise ShuttingDown
            return await handler(self, request)

    def _require_bearer(self, request: Request) -> None:
        if may_enter(request.headers.get("authorization"), self._bearer):
            return
        surface = SURFACE_OF.get(request.route)
        if surface is None or request.method != "POST":
            raise InvalidApiKey
        with Story.of(request, surface).watching():  # it wanted an answer: it has a line in the log
            raise InvalidApiKey

    async def _activate(self) -> None:
        await activate(
            self.config.default_models,
            self.activation,
            self.load,
            harnesses=self.config.harness_names,
            unavailable=self.hardware.unavailable,
            ended=lambda: self.closing,
        )
        self.activated.set()
