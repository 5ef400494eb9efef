"""Masks, bias and penalties: who is touched, by how much, in which order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from helexa.engine.logit_changes import SampleRow, change, has_changes
from helexa.engine.params import GenerationDefaults, SamplingParams, resolve

INF = float("inf")


def changed(
    logits: Sequence[float], generated: Sequence[int] = (), *, row: Any = None, **params: Any
) -> list[float]:
    """The logits after a row's changes."""
    resolved = resolve(SamplingParams(**params), GenerationDefaults(), len(logits))
    copy = torch.tensor(logits, dtype=torch.float32)
    change(copy, SampleRow(resolved, generated, **(row or {})))
    return copy.tolist()


def close(*values: float) -> Any:
    return pytest.approx(list(values), rel=1e-6)


def test_e064_repetition_penalty_looks_at_each_id_once() -> None:
    assert changed([2.2, -1.0, 5.0], [0, 1, 0], repetition_penalty=1.1) == close(2.0, -1.1, 5.0)


def test_e064_window_of_one_sees_only_the_last() -> None:
    assert changed([2.2, -1.0], [0, 1], repetition_penalty=1.1, repeat_last_n=1) == close(2.2, -1.1)


def test_e064_window_of_zero_sees_nothing() -> None:
    assert changed([2.2, -1.0], [0, 1], repetition_penalty=1.1, repeat_last_n=0) == close(2.2, -1.0)


def test_e064_default_window_is_64() -> None:
    generated = [0] + [1] * 64
    assert changed([2.0, 2.0], generated, repetition_penalty=2.0) == close(2.0, 1.0)


def test_e064_presence_and_frequency_count_all_generated() -> None:
    after = changed(
        [0.0, 0.0, 0.0], [0, 1, 0], presence_penalty=1, frequency_penalty=0.5, repeat_last_n=1
    )
    assert after == close(-2.0, -1.5, 0.0)


def test_e064_without_generated_tokens_nothing_happens() -> None:
    params = {"repetition_penalty": 1.1, "presence_penalty": 1.0}
    assert changed([2.2, -1.0], [], **params) == close(2.2, -1.0)


def test_bias_is_added_before_the_penalty() -> None:
    after = changed([1.0, 0.0], [0], logit_bias={0: 3.0, 1: -100}, repetition_penalty=2.0)
    assert after == close(2.0, -100.0)


def test_blocked_ids_stay_out_whatever_is_added() -> None:
    after = changed([1.0, 2.0], [1], row={"blocked": {1, 77}}, logit_bias={1: 100})
    assert after == [1.0, -INF]


def test_allowed_is_a_mask_of_bits() -> None:
    words = torch.zeros(2, dtype=torch.int32)
    words[0], words[1] = -(2**31), 1 << 3  # tokens 31 and 35
    after = changed([0.0] * 40, row={"allowed": words})
    assert [i for i, value in enumerate(after) if value == 0.0] == [31, 35]


@pytest.mark.parametrize("penalty", [5e-324, 1e-30, 1e30, 1e308])
def test_extreme_penalties_make_no_infinity(penalty: float) -> None:
    after = changed([3e38, 0.0, -1.0], [0, 1, 2], repetition_penalty=penalty)
    assert all(value == value and value != INF for value in after)


@pytest.mark.parametrize(
    ("params", "row", "expected"),
    [
        ({}, {}, False),
        ({"repetition_penalty": 1.1}, {}, False),
        ({"repetition_penalty": 1.1}, {"generated": [1]}, True),
        ({"presence_penalty": 1}, {"generated": [1]}, True),
        ({"logit_bias": {1: 1}}, {}, True),
        ({}, {"blocked": [1]}, True),
    ],
    ids=["plain", "nothing generated", "repetition", "presence", "bias", "blocked"],
)
def test_rows_without_changes_are_known(
    params: dict[str, Any], row: dict[str, Any], expected: bool
) -> None:
    resolved = resolve(SamplingParams(**params), GenerationDefaults(), 5)
    assert has_changes(SampleRow(resolved, **row)) is expected


def test_unresolved_params_are_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="pass them through resolve"):
        has_changes(SampleRow(SamplingParams(), [1]))
