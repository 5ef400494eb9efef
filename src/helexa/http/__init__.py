"""HTTP/1.1 on anyio and h11: a server, a router, event streams, a relay client, an ASGI adapter.

Both servers of helexa are built from this. It knows nothing of models: it imports nothing of the
package but the errors.
"""

from helexa.http.asgi import AsgiApp
from helexa.http.body import parse_json, require_json
from helexa.http.budget import BodyBudget
from helexa.http.client import Asking, Client
from helexa.http.config import ClientConfig, ServerConfig, Tls
from helexa.http.exchange import Handler
from helexa.http.headers import Headers
from helexa.http.relay import end_to_end, relay, request_fields
from helexa.http.request import Ending, Request
from helexa.http.response import (
    Response,
    StreamingResponse,
    envelope,
    json_response,
    render_error,
)
from helexa.http.router import Router
from helexa.http.server import Server, serving
from helexa.http.sse import EventStream, error_event, event
from helexa.http.upstream import UpstreamResponse
from helexa.refusals import Refusal

__all__ = [
    "AsgiApp",
    "Asking",
    "BodyBudget",
    "Client",
    "ClientConfig",
    "Ending",
    "EventStream",
    "Handler",
    "Headers",
    "Refusal",
    "Request",
    "Response",
    "Router",
    "Server",
    "ServerConfig",
    "StreamingResponse",
    "Tls",
    "UpstreamResponse",
    "end_to_end",
    "envelope",
    "error_event",
    "event",
    "json_response",
    "parse_json",
    "relay",
    "render_error",
    "request_fields",
    "require_json",
    "serving",
]
