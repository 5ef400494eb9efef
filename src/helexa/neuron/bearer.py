"""The one secret that a daemon may ask of everyone who talks to it."""

from __future__ import annotations

import hmac
from collections.abc import Mapping


def required_bearer(auth_env: str | None, environ: Mapping[str, str]) -> str | None:
    """The bearer that every request must carry; None if anyone may come in."""
    return environ.get(auth_env or "") or None


def may_enter(authorization: str | None, bearer: str | None) -> bool:
    """Whether an `Authorization` header is good enough; how long that takes tells nothing."""
    if bearer is None:
        return True
    scheme, _, given = (authorization or "").strip().partition(" ")
    same = hmac.compare_digest(given.strip().encode(), bearer.encode())
    return same and scheme.lower() == "bearer"
