"""The arithmetic of budgets: what is spent, what is set aside, what is left.

Pure functions over two values, so that every store counts alike. For a budget that does not
change, `spent + reserved` is never above its cap.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

MOST_TOKENS = 2**40
"""The most that one request can reserve or use, whatever a client or a neuron says."""
BOUNDLESS = 2**62
"""The cap of a budget without one: sums of tokens fit the 64 bits of a database's integer."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What a key may spend: at most ``cap`` tokens, per window of ``window_s`` or for ever."""

    cap: int | None = None
    window_s: int | None = None


class Account(NamedTuple):
    """The state of one key's budget, in tokens; ``window_start_ms`` is wall-clock time."""

    spent: int = 0
    reserved: int = 0
    window_start_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """More was asked for than is left; ``retry_s`` is when the window ends, None for a balance."""

    requested: int
    available: int
    retry_s: int | None


def within(tokens: int) -> int:
    """A number of tokens that somebody else named, brought within what can be counted."""
    return min(max(0, tokens), MOST_TOKENS)


def current(account: Account, budget: Budget, now_ms: int) -> tuple[Account, int | None]:
    """The account in the window of this moment, and the seconds until it ends.

    Windows tumble: a new one begins with the first request after the last has ended. What is set
    aside stays so. A clock that was set back makes a window longer, never shorter.
    """
    if budget.window_s is None:
        return account, None
    if account.window_start_ms is not None:
        elapsed_s = max(0, now_ms - account.window_start_ms) // 1000
        if elapsed_s < budget.window_s:
            return account, budget.window_s - elapsed_s
    return Account(0, account.reserved, now_ms), budget.window_s


def available(account: Account, budget: Budget) -> int:
    """Tokens that may still be set aside."""
    cap = BOUNDLESS if budget.cap is None else min(budget.cap, BOUNDLESS)
    return max(0, cap - account.spent - account.reserved)


def reserve(
    account: Account, budget: Budget, tokens: int, now_ms: int
) -> tuple[Account, Refused | None]:
    """Set tokens aside, all or none. A window that begins has begun even if they are refused."""
    account, retry_s = current(account, budget, now_ms)
    left = available(account, budget)
    if tokens > left:
        return account, Refused(tokens, left, retry_s)
    return Account(account.spent, account.reserved + tokens, account.window_start_ms), None


def charge(account: Account, *, reserved: int, actual: int, held: bool) -> Account:
    """Charge what a request used, at most what it had set aside, and free the rest.

    ``held`` is False if the reservation was already freed, because its gateway seemed dead.
    """
    return Account(
        account.spent + min(actual, reserved),
        max(0, account.reserved - reserved) if held else account.reserved,
        account.window_start_ms,
    )
