"""How an error looks to a client, with the headers that every answer has."""

from __future__ import annotations

from helexa.errors import HelexaError
from helexa.gateway.api.cors import CORS
from helexa.gateway.proxy.advice import ADVICE_HEADER
from helexa.gateway.refusals import Draining, OverContext
from helexa.gateway.translate.errors import renderer
from helexa.http.response import Render, Response, as_helexa_error, envelope, json_response
from helexa.refusals import MethodNotAllowed, ShuttingDown

INTERNAL = "internal_server_error"


def render(error: Exception) -> Response:
    """An error in OpenAI's envelope."""
    ours = in_own_words(as_helexa_error(error))
    body = envelope(ours)
    if ours.status == 500 and ours.code is None:
        body["error"] |= {"message": "internal error", "code": INTERNAL}
    response = json_response(body, ours.status)
    if ours.retry_after_s is not None:
        response.fields.append((b"retry-after", b"%d" % ours.retry_after_s))
    if ours.status == 401:
        response.fields.append((b"www-authenticate", b"Bearer"))
    if isinstance(ours, MethodNotAllowed):
        response.fields.append((b"allow", ", ".join(ours.allow).encode()))
    return completed(response, ours)


def render_anthropic(request_id: str) -> Render:
    """The same in Anthropic's form, for one request."""
    plain = renderer(request_id)

    def render_one(error: Exception) -> Response:
        ours = in_own_words(as_helexa_error(error))
        return completed(plain(ours), ours)

    return render_one


def in_own_words(error: HelexaError) -> HelexaError:
    """The error, where the server below does not know whose end it is."""
    return Draining() if isinstance(error, ShuttingDown) else error


def completed(response: Response, error: Exception) -> Response:
    """With what any answer has, and advice where there is some."""
    response.fields += CORS
    if isinstance(error, ShuttingDown):
        response.fields.append((b"connection", b"close"))
    if isinstance(error, OverContext) and error.advice:
        response.fields.append((ADVICE_HEADER.encode(), error.advice.encode()))
    return response
