"""OpenAI's surfaces: passed on untranslated to the same path of a neuron."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from helexa.gateway.auth import CREDENTIALS, PRINCIPAL, PRINCIPAL_HEADERS, principal_fields
from helexa.gateway.config import ProxyConfig
from helexa.gateway.fleet import Node
from helexa.gateway.proxy.body import Ask, aside, read_ask, with_model
from helexa.gateway.proxy.call import MAX_NAME, Call
from helexa.gateway.proxy.dispatch import Sending, dispatch
from helexa.gateway.proxy.estimate import need, require_fit
from helexa.gateway.proxy.relay import relayed
from helexa.gateway.proxy.wires import Wire
from helexa.gateway.router import Route, resolve
from helexa.gateway.state import State
from helexa.http import Request, Response, request_fields
from helexa.http.headers import Field

TRACE = 5
TRACED_CHARACTERS = 8192

log = logging.getLogger(__name__)


async def infer(state: State, wire: Wire, request: Request) -> Response:
    """Answer one inference request by a neuron's answer."""
    call = await request.hold(Call(state, wire, request))
    ask = await read_ask(request)
    call.asks(ask.model, stream=ask.stream)
    tell_inbound(wire, request.path, ask)
    route = await resolve(state, ask.model)
    call.routed(route)
    context, output = route.entry.context, route.entry.output
    if context is not None:
        require_fit(ask.value, context, request.headers.get("user-agent"))
    call.counted()
    await call.meter.reserve(need(ask.body, ask.value, wire.limits, output).total)
    ask.value = {}  # which may be large, and is of no use while the neuron is at work
    answer = await dispatch(state, call, route, sending(state, wire, request, ask))
    return relayed(call, answer)


def sending(state: State, wire: Wire, request: Request, ask: Ask) -> Sending:
    """What a replica is sent: the client's own bytes and fields, as far as they are its own."""
    return Sending(
        path=wire.path,
        body=partial(body_for, ask),
        fields=fields_for(request, forward=state.config.proxy.forward_authorization),
        head_timeout_s=head_timeout_s(state.config.proxy, ask.stream),
    )


def head_timeout_s(config: ProxyConfig, stream: bool) -> float:
    """How long to wait for the head of an answer."""
    return config.first_byte_timeout_secs if stream else config.non_stream_timeout_secs


async def body_for(ask: Ask, route: Route) -> bytes:
    """The body with the model's name on that node; the client's own bytes where it is the same."""
    listed = route.entry.listed_id
    if listed == ask.model:
        return ask.body
    return await aside(len(ask.body), lambda: with_model(ask.body, listed))


def fields_for(request: Request, *, forward: bool) -> Callable[[Node], list[Field]]:
    """The header for a replica, which may ask for a bearer of its own."""

    def fields(node: Node) -> list[Field]:
        kept = forward and node.bearer is None
        drop = PRINCIPAL_HEADERS if kept else PRINCIPAL_HEADERS | CREDENTIALS
        return request_fields(request, drop=drop, add=own_fields(request, node))

    return fields


def own_fields(request: Request, node: Node) -> list[Field]:
    """What the gateway says of itself and of who is asking."""
    fields = principal_fields(request.context.get(PRINCIPAL))
    if node.bearer is not None:
        fields.append((b"authorization", f"Bearer {node.bearer}".encode()))
    return fields


def tell_inbound(wire: Wire, endpoint: str, ask: Ask) -> None:
    """What came in, for who looks for it; its text only at the lowest level."""
    if not log.isEnabledFor(logging.DEBUG):
        return
    said = {
        "wire": wire.name,
        "endpoint": endpoint,
        "model": ask.model[:MAX_NAME],
        "stream": ask.stream,
        "tools": len(tools) if isinstance(tools := ask.value.get("tools"), list) else 0,
    }
    log.debug("inbound request", extra={"fields": said})
    if log.isEnabledFor(TRACE):
        text = ask.body[: 4 * TRACED_CHARACTERS].decode("utf-8", "replace")
        log.log(TRACE, "inbound body %s", text[:TRACED_CHARACTERS])
