"""Who asks, and what they may spend: the interface that the gateway meters by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from helexa.refusals import InsufficientQuota, RateLimited


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a key belongs to. ``backend`` is the provider that knows it, for a chain of them."""

    account_id: str
    key_id: str
    backend: str = "static"


class Reservation(NamedTuple):
    """Tokens set aside for one request; consumed exactly once, by settling or by releasing."""

    id: str
    principal: Principal
    reserved: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A budget as it stands, in tokens; a cap of None is no cap."""

    hard_cap: int | None = None
    spent: int = 0
    reserved: int = 0


class Source(Protocol):
    """Some keys and their budgets.

    Errors of `reserve`: RateLimited (with retry_after_s), InsufficientQuota, both from
    `helexa.refusals` and worded by `exhausted`; LedgerUnavailable. Of `resolve`:
    AuthorityUnavailable. `settle` and `release` raise nothing: what cannot be written is kept and
    written later.

    Whoever asks may be cancelled at any time. Then `reserve` has set nothing aside, or returns all
    the same; `settle` and `release` do what they are there for, in bounded time.
    """

    async def resolve(self, key: str) -> Principal | None:
        """Whose key this is; None if nobody's. Raises AuthorityUnavailable."""
        ...

    async def reserve(self, principal: Principal, tokens: int) -> Reservation:
        """Set tokens aside, durably, before anything is sent to a neuron."""
        ...

    async def settle(self, reservation: Reservation, actual: int) -> None:
        """Charge so many tokens, and count them as served; the rest is free again."""
        ...

    async def release(self, reservation: Reservation) -> None:
        """Charge nothing."""
        ...

    async def snapshot(self, principal: Principal) -> Snapshot:
        """The budget; zeros for a principal nobody knows."""
        ...


class Provider(Source, Protocol):
    """All keys and budgets that a gateway knows."""

    async def keep(self) -> None:
        """What is to be done beside: runs until cancelled."""
        ...


def exhausted(
    requested: int, available: int, retry_s: int | None
) -> RateLimited | InsufficientQuota:
    """The refusal of a budget: of a window that ends in ``retry_s``, or of a balance (None)."""
    asked = f"({requested} requested, {available} available)"
    if retry_s is None:
        return InsufficientQuota(f"hard balance exhausted {asked}")
    retry_s = max(1, retry_s)
    text = f"rolling-window budget exhausted {asked}; resets in {retry_s}s"
    return RateLimited(retry_s, text)
