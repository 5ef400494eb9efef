"""Keys that the configuration lists, with budgets in the ledger."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

from helexa.gateway.config import KeyConfig
from helexa.gateway.entitlements.budget import Budget
from helexa.gateway.entitlements.ledger import Ledger
from helexa.gateway.entitlements.provider import Principal, Reservation, Snapshot

BACKEND = "static"


class StaticKeys:
    """Configured keys; those with one ``key_id`` share one budget, the last one's.

    Only digests of the keys are kept: looking one up takes no time that depends on how much of it
    is right, and a memory dump holds none.
    """

    def __init__(self, keys: Iterable[KeyConfig], ledger: Ledger) -> None:
        self._ledger = ledger
        self._principals: dict[bytes, Principal] = {}
        self._budgets: dict[str, Budget] = {}
        for key in keys:
            self._principals[_digest(key.key)] = Principal(key.account_id, key.ledger_id, BACKEND)
            self._budgets[key.ledger_id] = _budget(key)

    async def resolve(self, key: str) -> Principal | None:
        """Whose key this is; None if it is not listed."""
        return self._principals.get(_digest(key))

    async def reserve(self, principal: Principal, tokens: int) -> Reservation:
        """Set tokens aside. Raises RateLimited, InsufficientQuota, LedgerUnavailable."""
        budget = self._budgets.get(principal.key_id, Budget())
        return await self._ledger.reserve(principal, budget, tokens)

    async def settle(self, reservation: Reservation, actual: int) -> None:
        """Charge; returns at once, and the ledger follows within milliseconds."""
        self._ledger.settle(reservation, actual)

    async def release(self, reservation: Reservation) -> None:
        """Charge nothing; returns at once."""
        self._ledger.release(reservation)

    async def snapshot(self, principal: Principal) -> Snapshot:
        """The budget as it stands; zeros where nothing was asked. Raises LedgerUnavailable."""
        account = await self._ledger.account(principal.key_id)
        cap = self._budgets.get(principal.key_id, Budget()).cap
        return Snapshot(cap, account.spent, account.reserved)


def _budget(key: KeyConfig) -> Budget:
    return Budget(key.hard_cap, key.window.seconds if key.window.kind == "rolling" else None)


def _digest(key: str) -> bytes:
    return sha256(key.encode("utf-8", "surrogatepass")).digest()
