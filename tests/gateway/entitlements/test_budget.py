"""The arithmetic of budgets, as plain values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helexa.gateway.entitlements.budget import (
    BOUNDLESS,
    Account,
    Budget,
    Refused,
    available,
    charge,
    current,
    reserve,
)

BALANCE = Budget(1000)
HOURLY = Budget(500, 3600)


@pytest.mark.parametrize(
    ("account", "budget", "tokens", "after", "refused"),
    [
        (Account(), BALANCE, 400, Account(0, 400), None),
        (Account(250, 0), BALANCE, 750, Account(250, 750), None),
        (Account(0, 900), BALANCE, 200, Account(0, 900), Refused(200, 100, None)),
        (Account(0, 1000), BALANCE, 0, Account(0, 1000), None),
        (Account(900, 400), BALANCE, 1, Account(900, 400), Refused(1, 0, None)),
        (Account(), Budget(0), 1, Account(), Refused(1, 0, None)),
        (Account(), Budget(), 10**7, Account(0, 10**7), None),
        (Account(), HOURLY, 500, Account(0, 500, 7000), None),
        (Account(500, 0, 7000), HOURLY, 1, Account(500, 0, 7000), Refused(1, 0, 3600)),
    ],
    ids=[
        *("granted", "equal is allowed", "beyond", "nothing of nothing", "cap was lowered"),
        *("cap of zero", "uncapped", "window begins", "window is used up"),
    ],
)
def test_reserving(
    account: Account, budget: Budget, tokens: int, after: Account, refused: Refused | None
) -> None:
    assert reserve(account, budget, tokens, 7000) == (after, refused)


@pytest.mark.parametrize(
    ("start_ms", "now_ms", "window", "retry_s"),
    [
        (None, 5_000, 5_000, 10),
        (5_000, 5_000, 5_000, 10),
        (5_000, 14_999, 5_000, 1),
        (5_000, 15_000, 15_000, 10),
        (5_000, 99_000, 99_000, 10),
        (5_000, 0, 5_000, 10),
    ],
    ids=["first", "just begun", "last moment", "over", "long over", "clock was set back"],
)
def test_a_window(start_ms: int | None, now_ms: int, window: int, retry_s: int) -> None:
    account, left_s = current(Account(7, 3, start_ms), Budget(100, 10), now_ms)
    assert (account.window_start_ms, left_s, account.reserved) == (window, retry_s, 3)
    assert account.spent == (7 if window == start_ms else 0)


def test_a_window_that_begins_has_begun_even_if_the_request_is_refused() -> None:
    account, refused = reserve(Account(400, 450, 0), HOURLY, 100, 3_600_000)
    assert account == Account(0, 450, 3_600_000)
    assert refused == Refused(100, 50, 3600)


def test_g156_clamp() -> None:
    held, _ = reserve(Account(), Budget(40), 40, 0)
    assert charge(held, reserved=40, actual=100, held=True) == Account(40, 0)


def test_what_was_freed_already_is_charged_all_the_same() -> None:
    assert charge(Account(10, 5), reserved=20, actual=15, held=False) == Account(25, 5)
    assert charge(Account(10, 5), reserved=20, actual=15, held=True) == Account(25, 0)


@given(
    cap=st.none() | st.integers(0, 200),
    window_s=st.none() | st.integers(1, 5),
    steps=st.lists(
        st.tuples(
            st.sampled_from(["reserve", "settle", "release", "wait"]),
            st.integers(0, 120),
            st.integers(0, 7),
        ),
        max_size=60,
    ),
)
def test_what_is_spent_and_reserved_never_exceeds_the_cap(
    cap: int | None, window_s: int | None, steps: list[tuple[str, int, int]]
) -> None:
    budget, account, now_ms = Budget(cap, window_s), Account(), 0
    held: list[int] = []
    for what, tokens, which in steps:
        before = account
        if what == "reserve":
            account, refused = reserve(account, budget, tokens, now_ms)
            if refused is None:
                held.append(tokens)
            else:
                assert (refused.requested, refused.available) == (
                    tokens,
                    available(account, budget),
                )
                assert (refused.retry_s is None) == (window_s is None)
                assert account.reserved == before.reserved
        elif what == "wait":
            now_ms += tokens * 50
        elif held:
            reserved = held.pop(which % len(held))
            actual = tokens if what == "settle" else 0
            account = charge(account, reserved=reserved, actual=actual, held=True)
            assert account.spent == before.spent + min(actual, reserved)
        assert account.reserved == sum(held)
        assert 0 <= account.spent + account.reserved <= (BOUNDLESS if cap is None else cap)
