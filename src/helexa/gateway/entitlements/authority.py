"""An authority elsewhere: its questions and answers on the wire, and keys that it knows."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import anyio

from helexa.gateway.config import UpstreamConfig
from helexa.gateway.entitlements.book import Usage
from helexa.gateway.entitlements.budget import within
from helexa.gateway.entitlements.ledger import Ledger
from helexa.gateway.entitlements.provider import Principal, Reservation, Snapshot, exhausted
from helexa.gateway.refusals import AuthorityUnavailable
from helexa.http import Client
from helexa.http.faults import UpstreamError
from helexa.http.occasional import Occasional
from helexa.refusals import InsufficientQuota, RateLimited

BACKEND = "upstream"
MOST_ANSWER_BYTES = 64 * 1024
RETRY_S = 5
ID = re.compile(r"[!-~]{1,128}")
MOST_RESERVATION_ID = 1024

Tell = Callable[[str, dict[str, Any]], None]
"""Says something to the authority some time, without anybody waiting for that."""

log = logging.getLogger(__name__)


class NoAnswer(Exception):
    """The authority did not answer, or not in a way that can be understood."""


class Authority:
    """The wire: one POST per question, each within ``timeout_secs``, nothing kept."""

    def __init__(self, config: UpstreamConfig, client: Client) -> None:
        self._url = f"{config.url.rstrip('/')}/authz/v1/"
        self._timeout_s = config.timeout_secs
        self._client = client
        self._fields = [("content-type", "application/json"), ("accept", "application/json")]
        if config.bearer:
            self._fields.append(("authorization", f"Bearer {config.bearer}"))

    async def ask(self, question: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer's object. Raises NoAnswer, and UnknownKey for a 401."""
        status, content = await self._post(question, body)
        if status == 401:
            raise UnknownKey(f"{question}: status 401")
        if not 200 <= status < 300:
            raise NoAnswer(f"{question}: status {status}")
        try:
            answer = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise NoAnswer(f"{question}: the answer is not JSON") from error
        if not isinstance(answer, dict):
            raise NoAnswer(f"{question}: the answer is not a JSON object")
        return answer

    async def tell(self, message: str, body: dict[str, Any]) -> None:
        """Say something that is to be accepted. Raises NoAnswer."""
        status, _ = await self._post(message, body)
        if not 200 <= status < 300:
            raise NoAnswer(f"{message}: status {status}")

    async def _post(self, name: str, body: dict[str, Any]) -> tuple[int, bytes]:
        asking = self._client.request(
            "POST", self._url + name, self._fields, json.dumps(body).encode()
        )
        try:
            with anyio.fail_after(self._timeout_s):
                async with asking as answer:
                    return answer.status, await answer.read(MOST_ANSWER_BYTES)
        except UpstreamError as error:
            raise NoAnswer(f"{name}: {error.detail}") from error
        except TimeoutError as error:
            raise NoAnswer(f"{name}: no answer within {self._timeout_s:g} s") from error

    async def report(self, rows: Sequence[tuple[Usage, int]]) -> None:
        """Tell what was served, in absolute numbers. Raises NoAnswer."""
        names = ("account_id", "key_id", "period")
        told = [
            {**dict(zip(names, usage, strict=True)), "served_tokens": tokens}
            for usage, tokens in rows
        ]
        await self.tell("served-usage", {"rows": told})


class UnknownKey(NoAnswer):
    """The authority answered 401."""


class UpstreamAuthority:
    """Keys that the authority knows, with budgets that it keeps.

    Where it does not answer, nobody is let in and nothing is granted. What it is told at the end of
    a request, by ``tell``, is best effort and nobody waits for it; what was served is counted here
    as well, and reported.
    """

    def __init__(self, authority: Authority, ledger: Ledger, tell: Tell) -> None:
        self._authority = authority
        self._ledger = ledger
        self._tell = tell
        self._failures = Occasional(time.monotonic)

    async def resolve(self, key: str) -> Principal | None:
        """Whose key this is; None if nobody's. Raises AuthorityUnavailable."""
        try:
            answer = await self._authority.ask("resolve", {"api_key": key})
            found = answer.get("principal")
            return _principal(found if isinstance(found, dict) else {})
        except UnknownKey:
            return None
        except NoAnswer as error:
            self._failed(error)
            raise AuthorityUnavailable(RETRY_S) from error

    async def reserve(self, principal: Principal, tokens: int) -> Reservation:
        """Have tokens set aside. Raises RateLimited, InsufficientQuota."""
        tokens = within(tokens)
        try:
            with anyio.CancelScope(shield=True):  # what it grants has to be known, to be released
                answer = await self._authority.ask(
                    "reserve", {**_ids(principal), "max_tokens": tokens}
                )
            if (rejected := answer.get("rejected")) is not None:
                raise _refusal(rejected)
            return Reservation(_reservation_id(answer), principal, tokens)
        except NoAnswer as error:
            self._failed(error)
            raise exhausted(tokens, 0, RETRY_S) from error

    async def settle(self, reservation: Reservation, actual: int) -> None:
        """Have tokens charged, if the authority hears of it; returns at once."""
        actual = within(actual)
        self._ledger.serve(reservation.principal, actual)
        self._tell("settle", {"reservation_id": reservation.id, "actual_tokens": actual})

    async def release(self, reservation: Reservation) -> None:
        """Have nothing charged; returns at once."""
        self._tell("release", {"reservation_id": reservation.id})

    async def snapshot(self, principal: Principal) -> Snapshot:
        """The budget as the authority tells it. Raises AuthorityUnavailable."""
        try:
            answer = await self._authority.ask("snapshot", _ids(principal))
            cap = answer.get("hard_cap")
            return Snapshot(
                None if cap is None else _tokens(cap),
                _tokens(answer.get("spent")),
                _tokens(answer.get("reserved")),
            )
        except NoAnswer as error:
            self._failed(error)
            raise AuthorityUnavailable(RETRY_S) from error

    def _failed(self, error: NoAnswer) -> None:
        if count := self._failures.happened():
            log.warning("the entitlement authority failed (%d times): %s", count, error)


def _ids(principal: Principal) -> dict[str, str]:
    return {"account_id": principal.account_id, "key_id": principal.key_id}


def _principal(found: dict[str, Any]) -> Principal:
    account_id, key_id = found.get("account_id"), found.get("key_id")
    for id in (account_id, key_id):
        # They go into headers, labels and the log.
        if not isinstance(id, str) or not ID.fullmatch(id):
            raise NoAnswer("resolve: the answer's ids are not 1 to 128 visible ASCII characters")
    return Principal(str(account_id), str(key_id), BACKEND)


def _reservation_id(answer: dict[str, Any]) -> str:
    id = answer.get("reservation_id")
    if not isinstance(id, str) or not 0 < len(id) <= MOST_RESERVATION_ID:
        raise NoAnswer("reserve: neither a reservation_id nor a rejection")
    return id


def _refusal(rejected: Any) -> RateLimited | InsufficientQuota:
    if not isinstance(rejected, dict):
        raise NoAnswer("reserve: the rejection is not a JSON object")
    requested, available = _tokens(rejected.get("requested")), _tokens(rejected.get("available"))
    kind = rejected.get("kind")
    if kind == "insufficient_quota":
        return exhausted(requested, available, None)
    if kind != "rate_limited":
        raise NoAnswer("reserve: the rejection is of an unknown kind")
    retry_s = rejected.get("retry_after_secs")
    return exhausted(requested, available, RETRY_S if retry_s is None else _tokens(retry_s))


def _tokens(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise NoAnswer("a number is missing, or is not a whole one of 63 bits")
    return value
