"""Routes match the raw path and decode each segment once."""

from __future__ import annotations

from typing import Any

import pytest

from helexa.errors import HelexaError
from helexa.http import Headers, Request, Response, Router, json_response
from helexa.http.budget import BodyLimits
from helexa.refusals import MethodNotAllowed, UnknownUrl

pytestmark = pytest.mark.anyio


class NoBody:
    content_length = 0

    async def read(self) -> bytes:
        return b""


def request(method: str, path: str) -> Request:
    return Request(method, path, "", Headers([]), NoBody(), limits=BodyLimits(9))


async def told(asked: Request) -> Response:
    return json_response({"route": asked.route, "params": asked.params})


@pytest.fixture
def router() -> Router:
    router = Router()
    for pattern in ("/", "/models", "/models/{id}", "/models/{id}/endpoint", "/models/load"):
        router.add("GET", pattern, told)
    router.add("POST", "/models/load", told)
    router.add("GET", "/v1/models/{id:path}", told)
    return router


@pytest.mark.parametrize(
    ("path", "route", "params"),
    [
        ("/", "/", {}),
        ("/models", "/models", {}),
        ("/models/load", "/models/load", {}),
        ("/models/a", "/models/{id}", {"id": "a"}),
        ("/models/org%2Fname/endpoint", "/models/{id}/endpoint", {"id": "org/name"}),
        ("/models/a%252Fb", "/models/{id}", {"id": "a%2Fb"}),
        ("/models/%C3%A9", "/models/{id}", {"id": "é"}),
        ("/models/a%20b+c", "/models/{id}", {"id": "a b+c"}),
        ("/%6dodels", "/models", {}),
        ("/v1/models/org/name", "/v1/models/{id:path}", {"id": "org/name"}),
        ("/v1/models/org%2Fname", "/v1/models/{id:path}", {"id": "org/name"}),
    ],
)
async def test_n024_matches(router: Router, path: str, route: str, params: dict[str, Any]) -> None:
    asked = request("GET", path)
    await router(asked)
    assert (asked.route, asked.params) == (route, params)


@pytest.mark.parametrize(
    "path", ["/nope", "/models/", "/models/a/", "/models//endpoint", "//models", "/v1/models/", "*"]
)
async def test_unknown_paths(router: Router, path: str) -> None:
    asked = request("GET", path)
    with pytest.raises(UnknownUrl):
        await router(asked)
    assert asked.route == ""


async def test_wrong_methods(router: Router) -> None:
    with pytest.raises(MethodNotAllowed) as caught:
        await router(request("DELETE", "/models/load"))
    assert caught.value.allow == ("GET", "POST", "HEAD")
    await router(request("HEAD", "/models/load"))


async def test_the_server_as_a_whole_has_no_options(router: Router) -> None:
    with pytest.raises(MethodNotAllowed) as caught:
        await router(request("OPTIONS", "*"))
    assert set(caught.value.allow) >= {"GET", "HEAD", "POST"}


async def test_one_handler_for_a_method(router: Router) -> None:
    with pytest.raises(ValueError, match="GET /models has a handler already"):
        router.add("GET", "/models", told)


async def test_a_route_may_render_its_errors_itself() -> None:
    def flat(error: Exception) -> Response:
        return json_response({"error": str(error)}, 404)

    async def fail(_: Request) -> Response:
        raise HelexaError("gone")

    from helexa.http import serving
    from tests.http.wire import GET, ask

    router = Router()
    router.add("GET", "/", fail, render=flat)
    async with serving(router) as server:
        assert (await ask(server, GET)).body == b'{"error":"gone"}'
