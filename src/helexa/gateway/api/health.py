"""`GET /health`: how the fleet is, in one object that anyone may read."""

from __future__ import annotations

from typing import Any

from helexa.gateway.state import State
from helexa.http.exchange import Handler
from helexa.http.request import Request
from helexa.http.response import Response
from helexa.protocol.json_text import to_json


def fleet_health(state: State) -> dict[str, Any]:
    """The state of the fleet.

    ``degraded``: no node answers; ``impaired``: a model is loaded and its node says that it cannot
    take requests.
    """
    healthy = state.fleet.healthy
    unservable = [
        {
            "node": node.name,
            "model": model,
            "reason": entry.servable.reason,
            "detail": entry.servable.detail,
        }
        for node in healthy
        for model, entry in node.entries.items()
        if entry.servable is not None and not entry.servable.ok
    ]
    found: dict[str, Any] = {
        "status": "degraded" if not healthy else "impaired" if unservable else "ok",
        "nodes": {"healthy": len(healthy), "total": len(state.fleet.nodes)},
    }
    return {**found, "unservable": unservable} if unservable else found


def health(state: State) -> Handler:
    """What answers `GET /health` and `GET /`; always 200, as it is the gateway that answers."""

    async def answer(request: Request) -> Response:
        return Response(to_json(fleet_health(state)), media_type="application/json")

    return answer
