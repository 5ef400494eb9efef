"""Which steps are launched ahead, by what is known of their rows."""

from __future__ import annotations

from typing import Any

import pytest

from helexa.engine.ahead.when import Going, going_on
from helexa.engine.drafting.drafts import MOST_ROWS


def row(**of: Any) -> Going:
    usual = {"computes": 1, "samples": True, "masked": False, "drafts": False, "left": 5}
    return Going(**{**usual, **of})


def test_rows_that_draw_and_go_on() -> None:
    assert going_on([row()], alone=True) == [0]
    assert going_on([row()] * 3, alone=True) == [0, 1, 2]


def test_rows_that_end_for_their_length_are_left_out() -> None:
    assert going_on([row(), row(left=0), row(left=1)], alone=True) == [0, 2]
    assert going_on([row(left=0)] * 2, alone=True) == []
    assert going_on([], alone=True) == []


@pytest.mark.parametrize(
    "other",
    [{"computes": 2}, {"computes": 0}, {"samples": False}, {"masked": True}, {"drafts": True}],
    ids=str,
)
def test_one_row_of_another_kind_is_enough(other: dict[str, Any]) -> None:
    assert going_on([row(), row(**other)], alone=True) == []
    assert going_on([row(), row(left=0, **other)], alone=True) == []


def test_not_while_something_else_runs_or_waits() -> None:
    assert going_on([row()], alone=False) == []


def test_with_many_rows_there_are_no_drafts() -> None:
    many = [row(drafts=True)] * (MOST_ROWS + 1)
    assert going_on(many, alone=True) == list(range(MOST_ROWS + 1))
    assert going_on([*many[1:], row(left=0)], alone=True) == []  # next time there may be some
