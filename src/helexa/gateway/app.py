"""The gateway, wired: its routes, who may ask, how errors look, what is told of a request."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from urllib.parse import unquote

from helexa.errors import HelexaError
from helexa.gateway.api import counting, images, messages, openai
from helexa.gateway.api.cors import CORS, preflight
from helexa.gateway.api.errors import render_anthropic
from helexa.gateway.api.health import health
from helexa.gateway.api.models import ModelRoutes
from helexa.gateway.auth import PRINCIPAL, PUBLIC_PATHS, authenticate, needs_key
from helexa.gateway.entitlements.provider import Principal
from helexa.gateway.proxy.call import CALL, Call
from helexa.gateway.proxy.wires import CHAT, COMPLETIONS, RESPONSES
from helexa.gateway.refusals import Draining, OutOfBuffers
from helexa.gateway.state import State
from helexa.http import BodyBudget, Ending, Request, Response, Router, ServerConfig
from helexa.http.occasional import Occasional
from helexa.refusals import InvalidApiKey

Handler = Callable[[State, Request], Awaitable[Response]]

ANTHROPIC = "/v1/messages"
ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("POST", "/v1/images/generations", images.generate),
    ("POST", ANTHROPIC, messages.create),
    ("POST", f"{ANTHROPIC}/count_tokens", counting.count_tokens),
)

log = logging.getLogger(__name__)


class App:
    """The gateway's API over a state that others keep up to date; it starts no task.

    ``cut`` counts the requests that the end of a drain cut off.
    """

    def __init__(self, state: State) -> None:
        self.state = state
        self.cut = 0
        self._refusals = Occasional(state.clock)
        self._strangers = Occasional(state.clock)
        self._router = Router()
        models = ModelRoutes(state)
        for path in PUBLIC_PATHS:
            self._router.add("GET", path, health(state))
        self._router.add("GET", "/v1/models", models.all)
        self._router.add("GET", "/v1/models/{id:path}", models.one)
        for method, pattern, handler in ROUTES:
            self._router.add(method, pattern, partial(handler, state))
        for wire in (CHAT, COMPLETIONS, RESPONSES):
            self._router.add("POST", wire.path, partial(openai.infer, state, wire))

    @property
    def routes(self) -> list[tuple[str, str]]:
        """Method and pattern of every route."""
        return self._router.routes

    async def __call__(self, request: Request) -> Response:
        """Answer one request: who may, may; what that is, the router knows."""
        if request.method == "OPTIONS":
            return preflight(request)
        if speaks_anthropic(request.path):
            request.render = render_anthropic(request.id)
        if self.state.draining:
            raise Draining
        if needs_key(request.method, request.path):
            request.context[PRINCIPAL] = await self._principal(request)
        response = await self._router(request)
        response.fields += CORS
        return response

    async def _principal(self, request: Request) -> Principal | None:
        """Who asks. Raises InvalidApiKey, of which the log is told now and then."""
        state = self.state
        required = state.config.entitlements.require_auth
        try:
            return await authenticate(request.headers, state.provider, require_auth=required)
        except InvalidApiKey as error:
            if times := self._strangers.happened():
                log.warning("refused for its key: %s (%d times)", error, times)
            raise

    def observe(self, request: Request, ending: Ending) -> None:
        """Tell of a proxied call that has ended."""
        self.cut += ending.outcome == "shutdown"
        call: Call | None = request.context.get(CALL)
        if call is not None:
            call.ended(ending)

    def refused(self, error: HelexaError) -> None:
        """Say now and then what was refused before there was a request."""
        if times := self._refusals.happened():
            log.warning("refused before there was a request: %s (%d times)", error, times)


def build_app(state: State) -> App:
    """The API of a gateway; no background task is started."""
    return App(state)


def speaks_anthropic(path: str) -> bool:
    """Whether errors on this path are to be in Anthropic's form."""
    path = unquote(path) if "%" in path else path
    return path == ANTHROPIC or path.startswith(f"{ANTHROPIC}/")


def server_config(state: State, host: str, port: int) -> ServerConfig:
    """The limits towards clients."""
    config = state.config
    return ServerConfig(
        host=host,
        port=port,
        max_connections=config.limits.max_connections,
        when_full="wait",
        max_body_bytes=config.limits.max_body_bytes,
        header_timeout_s=30.0,
        body_timeout_s=60.0,
        idle_timeout_s=75.0,
        write_stall_s=config.proxy.write_timeout_secs,
        body_budget=BodyBudget(config.limits.max_buffered_bytes, OutOfBuffers),
        close_idle_on_drain=False,
    )
