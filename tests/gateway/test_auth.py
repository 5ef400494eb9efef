"""Which key a request carries, and whose it is."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helexa.gateway.auth import (
    PRINCIPAL_HEADERS,
    authenticate,
    key_of,
    needs_key,
    principal_fields,
)
from helexa.gateway.entitlements.provider import Principal, Reservation, Snapshot
from helexa.gateway.refusals import AuthorityUnavailable
from helexa.http import Headers
from helexa.refusals import InvalidApiKey

pytestmark = pytest.mark.anyio

GOOD = Principal("acct-1", "key-1")


@dataclass
class Keys:
    """A provider that knows some keys, or is out of order; budgets are no part of this."""

    known: dict[str, Principal] = field(default_factory=lambda: {"sk-good": GOOD})
    down: bool = False
    asked: list[str] = field(default_factory=list)

    async def resolve(self, key: str) -> Principal | None:
        self.asked.append(key)
        if self.down:
            raise AuthorityUnavailable
        return self.known.get(key)

    async def reserve(self, principal: Principal, tokens: int) -> Reservation:
        raise AssertionError("nobody is charged here")

    async def settle(self, reservation: Reservation, actual: int) -> None:
        raise AssertionError("nobody is charged here")

    async def release(self, reservation: Reservation) -> None:
        raise AssertionError("nobody is charged here")

    async def snapshot(self, principal: Principal) -> Snapshot:
        raise AssertionError("nobody is charged here")


def headers(**fields: str) -> Headers:
    return Headers(
        (name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in fields.items()
    )


async def who(provider: Keys, require_auth: bool = True, **fields: str) -> Principal | None:
    return await authenticate(headers(**fields), provider, require_auth=require_auth)


async def test_g140_missing_key() -> None:
    with pytest.raises(InvalidApiKey) as caught:
        await who(Keys())
    error = caught.value
    assert (error.status, error.type, error.code) == (
        401,
        "invalid_request_error",
        "invalid_api_key",
    )
    assert error.message == "missing API key; supply 'Authorization: Bearer <key>'"


async def test_g141_placeholder() -> None:
    assert await who(Keys(), False, authorization="Bearer sk-dummy-placeholder") is None
    assert principal_fields(None) == []


@pytest.mark.parametrize(
    ("authorization", "message"),
    [("Bearer sk-wrong", "invalid API key"), ("Basic x", "missing API key")],
)
async def test_g142_wrong_key(authorization: str, message: str) -> None:
    with pytest.raises(InvalidApiKey) as caught:
        await who(Keys(), authorization=authorization)
    assert caught.value.status == 401
    assert caught.value.message.startswith(message)


@pytest.mark.parametrize("require_auth", [False, True])
async def test_g143_principal(require_auth: bool) -> None:
    """Of what a client says of itself nothing is believed."""
    spoofed = {"x_helexa_account_id": "attacker", "x_helexa_key_id": "attacker"}
    found = await who(Keys(), require_auth, authorization="Bearer sk-good", **spoofed)
    assert found == GOOD
    assert principal_fields(found) == [
        (b"x-helexa-account-id", b"acct-1"),
        (b"x-helexa-key-id", b"key-1"),
    ]


async def test_g144_anonymous() -> None:
    provider = Keys()
    assert await who(provider, False, x_helexa_account_id="attacker") is None
    assert provider.asked == []
    plain = {name.replace(b"_", b"-") for name in PRINCIPAL_HEADERS}
    assert plain == {b"x-helexa-account-id", b"x-helexa-key-id"} < PRINCIPAL_HEADERS
    assert {b"x_helexa_account_id", b"x-helexa_key-id"} < PRINCIPAL_HEADERS


def test_g145_public() -> None:
    assert not needs_key("GET", "/health")
    assert not needs_key("GET", "/")
    assert not needs_key("OPTIONS", "/v1/chat/completions")
    assert needs_key("GET", "/v1/models")
    assert needs_key("GET", "/health/")
    assert needs_key("GET", "/nope")


async def test_g146_x_api_key() -> None:
    assert await who(Keys(), x_api_key=" sk-good ") == GOOD
    assert await who(Keys(), x_api_key="sk-good", authorization="Basic x") == GOOD
    with pytest.raises(InvalidApiKey):
        await who(Keys(), x_api_key="sk-good", authorization="Bearer sk-wrong")


@pytest.mark.parametrize("require_auth", [False, True])
async def test_g169_an_authority_that_is_down_is_told_in_either_mode(require_auth: bool) -> None:
    with pytest.raises(AuthorityUnavailable) as caught:
        await who(Keys(down=True), require_auth, authorization="Bearer sk-good")
    assert (caught.value.status, caught.value.retry_after_s) == (503, 5)


@pytest.mark.parametrize("bad", ["", "with space", "line\nbreak", "é", "x" * 129])
async def test_names_that_fit_into_no_header_are_an_authority_out_of_order(bad: str) -> None:
    for principal in (Principal(bad, "key"), Principal("acct", bad)):
        with pytest.raises(AuthorityUnavailable):
            await who(Keys({"k": principal}), False, authorization="Bearer k")


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"authorization": "Bearer sk-1"}, "sk-1"),
        ({"authorization": "bEARER  sk-1 "}, "sk-1"),
        ({"authorization": "Bearer sk 1"}, "sk 1"),
        ({"authorization": "Bearer"}, None),
        ({"authorization": "Bearer  "}, None),
        ({"authorization": "Bearer ", "x_api_key": "sk-2"}, "sk-2"),
        ({"authorization": "Bearer\tsk-1"}, None),
        ({"authorization": "sk-1"}, None),
        ({"authorization": ""}, None),
        ({"x_api_key": "  "}, None),
        ({}, None),
        ({"authorization": "Bearer sch\xc3\xbcssel"}, "schüssel"),
        ({"authorization": "Bearer sch\xfcssel"}, "schüssel"),
    ],
)
def test_keys(fields: dict[str, str], key: str | None) -> None:
    assert key_of(headers(**fields)) == key


@given(st.binary(), st.binary())
def test_no_header_makes_it_fail(authorization: bytes, x_api_key: bytes) -> None:
    found = key_of(Headers([(b"authorization", authorization), (b"x-api-key", x_api_key)]))
    assert found is None or found.encode()  # a text that can be digested
