"""How many tokens a conversation has: by the model's own tokenizer, or estimated."""

from __future__ import annotations

import json
import logging
from typing import Any

import anyio

from helexa.errors import HelexaError
from helexa.gateway.api.messages import encode, fields_for
from helexa.gateway.endpoints import endpoint_url
from helexa.gateway.proxy.body import aside, read_json
from helexa.gateway.proxy.dispatch import KEEP_BYTES, says_not_found
from helexa.gateway.proxy.estimate import prompt_estimate, tools_estimate
from helexa.gateway.router import Route, another_replica, require_known
from helexa.gateway.state import State
from helexa.gateway.translate.errors import REQUEST_ID
from helexa.gateway.translate.request import translate_count
from helexa.http import Request, Response, json_response

ANSWER_S = 30.0
EXACT = b"x-helexa-token-count"

log = logging.getLogger(__name__)


async def count_tokens(state: State, request: Request) -> Response:
    """Answer by a loaded replica's tokenizer if there is one; nothing is loaded for it.

    Raises InvalidAnthropicBody, UnknownModel, NoHealthyNodes.
    """
    data, value = await read_json(request)
    translated = await aside(len(data), lambda: translate_count(value))
    model = require_known(state, translated.model)
    route = another_replica(state, model, "")
    counted = None
    if route is not None:
        body = await encode(translated, route, len(data))
        counted = await ask(state, request, route, body)
    how = "estimated" if counted is None else "exact"
    if counted is None:
        counted = await aside(len(data), lambda: estimated(translated.body))
    headers = [(EXACT, how.encode()), (REQUEST_ID.encode(), request.id.encode())]
    return json_response({"input_tokens": counted}, 200, headers)


async def ask(state: State, request: Request, route: Route, body: bytes) -> int | None:
    """What the replica counts; None if it cannot, or fails."""
    node = route.node
    try:
        with anyio.fail_after(ANSWER_S):
            url = await endpoint_url(state, node, route.model)
            asking = state.client.request(
                "POST", f"{url}/tokenize", fields_for(request, node), body
            )
            async with asking as upstream:
                told = await upstream.read(KEEP_BYTES)
                status = upstream.status
    except (HelexaError, TimeoutError) as error:
        log.debug("node %s does not count tokens: %s", node.name, error)
        return None
    if status != 200 or says_not_found(told):
        log.debug("node %s answered %d to a count of tokens", node.name, status)
        return None
    return counted_in(told)


def counted_in(body: bytes) -> int | None:
    """The count in an answer; None if there is none that could be meant."""
    try:
        count: Any = json.loads(body)["count"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return count if type(count) is int and count >= 0 else None


def estimated(body: dict[str, Any]) -> int:
    """About how many tokens, tools included."""
    return (prompt_estimate(body) or 1) + tools_estimate(body)
