"""Routes: patterns over the raw path, each segment decoded once.

    router = Router()
    router.add("GET", "/models/{id}/endpoint", endpoint)

`{id}` is one segment, in which ``%2F`` is a slash of the value; `{id:path}`, at the end of a
pattern, is all that is left, with slashes raw or encoded. A route for GET also answers HEAD.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import unquote

from helexa.http.exchange import Handler
from helexa.http.request import Request
from helexa.http.response import Render, Response
from helexa.refusals import MethodNotAllowed, UnknownUrl

WHOLE_SERVER = ("OPTIONS", "*")
"""What asks about the server and not about a path (RFC 9110 §9.3.7)."""


@dataclass(frozen=True, slots=True)
class _Target:
    handler: Handler
    render: Render | None


class _Route:
    """One pattern and what answers each method."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.targets: dict[str, _Target] = {}
        self._parts = pattern.split("/")
        last = self._parts[-1]
        self._tail = last[1:-6] if last.startswith("{") and last.endswith(":path}") else ""
        if self._tail:
            self._parts.pop()

    @property
    def literal(self) -> bool:
        return "{" not in self.pattern

    def match(self, segments: list[str]) -> dict[str, str] | None:
        """The parameters of a path given as decoded segments, if it fits the pattern."""
        size = len(self._parts)
        if len(segments) < size + 1 if self._tail else len(segments) != size:
            return None
        params: dict[str, str] = {}
        for part, segment in zip(self._parts, segments, strict=False):
            if part.startswith("{") and segment:
                params[part[1:-1]] = segment
            elif part != segment:
                return None
        if self._tail:
            params[self._tail] = "/".join(segments[size:])
            if not params[self._tail]:
                return None
        return params

    def allow(self) -> list[str]:
        methods = [*self.targets, *(["HEAD"] if "GET" in self.targets else [])]
        return list(dict.fromkeys(methods))


class Router:
    """A handler that hands a request to the route of its path and method.

    ``guard`` sees every request first, also one that fits no route, once its ``route`` is known;
    what it raises is the answer, so that a stranger learns nothing of what there is.
    """

    def __init__(self, guard: Callable[[Request], None] = lambda request: None) -> None:
        self._guard = guard
        self._routes: dict[str, _Route] = {}

    def add(
        self, method: str, pattern: str, handler: Handler, *, render: Render | None = None
    ) -> None:
        """Answer ``method`` on ``pattern``; ``render`` gives the route's errors their own form."""
        route = self._routes.setdefault(pattern, _Route(pattern))
        if method in route.targets:
            raise ValueError(f"{method} {pattern} has a handler already")
        route.targets[method] = _Target(handler, render)

    @property
    def routes(self) -> list[tuple[str, str]]:
        """Method and pattern of each route, as they were added."""
        found = self._routes.values()
        return [(method, route.pattern) for route in found for method in route.targets]

    async def __call__(self, request: Request) -> Response:
        """Raises UnknownUrl or MethodNotAllowed; else what the guard or the handler raises."""
        found = self._find(request.path)
        if found is not None:
            request.route = found[0].pattern
        self._guard(request)
        if found is None:
            if (request.method, request.path) == WHOLE_SERVER:
                raise MethodNotAllowed(request.method, request.path, self._allow())
            raise UnknownUrl(request.method, request.path)
        route, request.params = found
        target = route.targets.get(request.method)
        if target is None and request.method == "HEAD":
            target = route.targets.get("GET")
        if target is None:
            raise MethodNotAllowed(request.method, request.path, route.allow())
        request.render = target.render or request.render
        return await target.handler(request)

    def _allow(self) -> list[str]:
        return sorted({method for route in self._routes.values() for method in route.allow()})

    def _find(self, path: str) -> tuple[_Route, dict[str, str]] | None:
        literal = self._routes.get(path)
        if literal is not None and literal.literal:
            return literal, {}
        segments = [unquote(segment) for segment in path.split("/")]
        for route in self._routes.values():
            params = route.match(segments)
            if params is not None:
                return route, params
        return None
