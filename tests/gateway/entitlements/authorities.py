"""An authority on a real socket that answers what a test tells it to: fixture MA."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio

from helexa.http import Request, Response, serving

SECRET = "authority-secret"
KEYS = {"mesh-key": ("mesh-acct", "mesh-key-1")}


@dataclass
class MockAuthority:
    """Knows `mesh-key`, grants everything, and remembers what it was asked.

    ``answers`` replaces the answer to a question: its status, and JSON or the bytes of a body.
    ``silent`` questions are never answered, ``held`` ones once their event is set.
    """

    url: str = ""
    keys: dict[str, tuple[str, str]] = field(default_factory=lambda: dict(KEYS))
    answers: dict[str, tuple[int, Any]] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    held: dict[str, anyio.Event] = field(default_factory=dict)
    asked: list[tuple[str, Any]] = field(default_factory=list)
    served: dict[tuple[str, str, str], int] = field(default_factory=dict)

    def bodies(self, question: str) -> list[Any]:
        """What was asked with one question."""
        return [body for name, body in self.asked if name == question]

    async def __call__(self, request: Request) -> Response:
        question = request.path.removeprefix("/base/authz/v1/")
        assert request.method == "POST"
        assert request.headers.get("authorization") == f"Bearer {SECRET}"
        assert request.headers.get("content-type") == "application/json"
        body = json.loads(await request.body())
        self.asked.append((question, body))
        if question in self.silent:
            await anyio.sleep_forever()
        if question in self.held:
            await self.held[question].wait()
        status, answer = self.answers.get(question) or self._answer(question, body)
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        return Response(content, status=status, media_type="application/json")

    def _answer(self, question: str, body: Any) -> tuple[int, Any]:
        if question == "resolve":
            found = self.keys.get(body["api_key"])
            if found is None:
                return 401, {"error": "unknown"}
            return 200, {"principal": dict(zip(("account_id", "key_id"), found, strict=True))}
        if question == "reserve":
            return 200, {"reservation_id": f"remote-{len(self.asked)}"}
        if question == "snapshot":
            return 200, {"hard_cap": 100, "spent": 30, "reserved": 20}
        if question == "served-usage":
            for row in body["rows"]:
                place = (row["account_id"], row["key_id"], row["period"])
                self.served[place] = max(self.served.get(place, 0), row["served_tokens"])
        return 200, {}


@asynccontextmanager
async def mock_authority() -> AsyncIterator[MockAuthority]:
    mock = MockAuthority()
    async with serving(mock, drain_s=0.0) as server:
        mock.url = f"{server.url}/base/"
        yield mock
