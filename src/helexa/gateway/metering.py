"""What a request costs its principal: set aside before it is sent, charged exactly once after."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from helexa.gateway.entitlements.provider import Principal, Provider, Reservation


class Meter:
    """One request's reservation, as a context: what nobody charged is released at its end.

    Providers take care of clients that leave at any moment. Anonymous requests, and gateways
    without keys, reserve nothing.
    """

    __slots__ = ("_provider", "_reservation", "charged", "principal")

    def __init__(self, provider: Provider | None, principal: Principal | None) -> None:
        self.principal = principal
        self.charged: int | None = None
        self._provider = provider if principal is not None else None
        self._reservation: Reservation | None = None

    @property
    def reserved(self) -> int:
        """The tokens set aside."""
        return self._reservation.reserved if self._reservation is not None else 0

    async def reserve(self, tokens: int) -> None:
        """Set tokens aside. Raises RateLimited, InsufficientQuota, LedgerUnavailable."""
        if self._provider is not None and self.principal is not None:
            self._reservation = await self._provider.reserve(self.principal, tokens)

    def charge(self, tokens: int) -> None:
        """Say what was used; the ledger hears of it when the request ends."""
        self.charged = tokens

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        reservation, self._reservation = self._reservation, None
        provider = self._provider
        if reservation is None or provider is None:
            return
        if self.charged is None:
            await provider.release(reservation)
        else:
            await provider.settle(reservation, self.charged)
