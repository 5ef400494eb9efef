"""What a child finds in its environment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import helexa
from helexa.engine.process.children import environment

SETTINGS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)


def test_it_is_the_parents_and_finds_the_same_helexa(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOMETHING", "else")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    found = environment()
    assert found["SOMETHING"] == "else"
    assert found["PYTHONPATH"].split(os.pathsep) == [
        str(Path(helexa.__file__).parents[1]),
        "/elsewhere",
    ]


def test_threads_spin_for_a_while_and_then_sleep() -> None:
    assert environment()["GOMP_SPINCOUNT"] == "10000"


@pytest.mark.parametrize(
    ("name", "value"), [("GOMP_SPINCOUNT", "7"), ("OMP_WAIT_POLICY", "active")]
)
def test_who_has_chosen_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    found = environment()
    assert {key: found[key] for key in SETTINGS if key in found} == {name: value}
