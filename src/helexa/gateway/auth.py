"""Who is asking: the key that a request carries, and what neurons are told of its owner."""

from __future__ import annotations

import re
from itertools import product

from helexa.gateway.entitlements.provider import Principal, Provider
from helexa.gateway.refusals import AuthorityUnavailable
from helexa.http.headers import Field, Headers
from helexa.refusals import InvalidApiKey

ACCOUNT_HEADER = b"x-helexa-account-id"
KEY_HEADER = b"x-helexa-key-id"
PRINCIPAL_HEADERS = frozenset(
    b"x%bhelexa%b%b%bid" % (first, second, word, third)
    for word in (b"account", b"key")
    for first, second, third in product((b"-", b"_"), repeat=3)
)
"""Only the gateway says who is asking: these are never passed on as clients send them.

Nor are those with underscores, which many servers take for the same.
"""
CREDENTIALS = frozenset({b"authorization", b"x-api-key"})
PUBLIC_PATHS = frozenset({"/", "/health"})
PRINCIPAL = "principal"
"""Where a request's context has it."""
MISSING_KEY = "missing API key; supply 'Authorization: Bearer <key>'"

_ID = re.compile(r"[\x21-\x7e]{1,128}")


async def authenticate(
    headers: Headers, provider: Provider | None, *, require_auth: bool
) -> Principal | None:
    """Whose request this is; None if nobody's. Without a provider there are no keys.

    Unless keys are required, one that nobody knows counts for nothing: many clients send one
    because they have to send something. Raises InvalidApiKey, AuthorityUnavailable.
    """
    key = key_of(headers)
    if key is None:
        if require_auth:
            raise InvalidApiKey(MISSING_KEY)
        return None
    principal = None if provider is None else await provider.resolve(key)
    if principal is None:
        if require_auth:
            raise InvalidApiKey
        return None
    if not (_ID.fullmatch(principal.account_id) and _ID.fullmatch(principal.key_id)):
        raise AuthorityUnavailable  # such names fit into no header and no metric
    return principal


def needs_key(method: str, path: str) -> bool:
    """Whether a request is looked at before it is answered; unknown paths are, too."""
    return method != "OPTIONS" and path not in PUBLIC_PATHS


def key_of(headers: Headers) -> str | None:
    """The key of a request: its bearer, else its `x-api-key`; other schemes are no key."""
    scheme, _, given = (headers.first(b"authorization") or b"").partition(b" ")
    key = given.strip() if scheme.lower() == b"bearer" else b""
    return _text(key or (headers.first(b"x-api-key") or b"").strip()) or None


def _text(value: bytes) -> str:
    """A header's value, in whichever of the two encodings its client believes in."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def principal_fields(principal: Principal | None) -> list[Field]:
    """What a neuron is told of who is asking; nothing of nobody."""
    if principal is None:
        return []
    return [
        (ACCOUNT_HEADER, principal.account_id.encode("ascii")),
        (KEY_HEADER, principal.key_id.encode("ascii")),
    ]
