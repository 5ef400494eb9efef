"""Who may talk to a daemon that asks for a secret."""

from __future__ import annotations

import pytest

from helexa.neuron.bearer import may_enter, required_bearer


@pytest.mark.parametrize(
    ("authorization", "bearer", "enters"),
    [
        (None, None, True),
        ("Bearer anything", None, True),
        (None, "s3cret", False),
        ("", "s3cret", False),
        ("Bearer s3cret", "s3cret", True),
        ("bearer  s3cret ", "s3cret", True),
        ("Bearer s3cre", "s3cret", False),
        ("Bearer s3crets", "s3cret", False),
        ("Basic s3cret", "s3cret", False),
        ("s3cret", "s3cret", False),
        ("Bearer é", "s3cret", False),
        ("Bearer é", "é", True),
    ],
)
def test_n125_bearer(authorization: str | None, bearer: str | None, enters: bool) -> None:
    assert may_enter(authorization, bearer) is enters


def test_n125_a_variable_that_is_not_set_asks_for_nothing() -> None:
    environ = {"TOKEN": "t", "EMPTY": ""}
    found = [required_bearer(name, environ) for name in ("TOKEN", "EMPTY", "MISSING", "", None)]
    assert found == ["t", None, None, None, None]
