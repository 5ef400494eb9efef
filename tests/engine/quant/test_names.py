"""E-032: the names of formats to quantise to."""

from __future__ import annotations

import pytest

from helexa.engine.quant.names import FORMATS, SHOWN, format_of, is_plain
from helexa.errors import PreflightError


@pytest.mark.parametrize(
    ("names", "format"),
    [
        (("Q4_K_M", "q4km", "q4k", "q4-k", "Q2_K", "q3k", "q4_1"), "Q4_K"),
        (("Q8_0", "q8", "q8_1", "q8k"), "Q8_0"),
        (("q6_k",), "Q6_K"),
        (("q5_k_m", "Q5K", "q5_1"), "Q5_K"),
        (("q5_0",), "Q5_0"),
        (("q4_0", "Q40"), "Q4_0"),
        (("bf16",), "BF16"),
        (("", None, "_"), None),
    ],
)
def test_e032_names(names: tuple[str | None, ...], format: str | None) -> None:
    assert {format_of(name) for name in names} == {format}


@pytest.mark.parametrize("name", ["q7", "q4kx", "int8", "gguf"])
def test_e032_other_names_are_refused_with_those_there_are(name: str) -> None:
    with pytest.raises(PreflightError, match=f"{name}.*q8_0, q6_k") as caught:
        format_of(name)
    assert (caught.value.kind, caught.value.available) == ("quant_not_found", SHOWN)
    assert {format_of(shown) for shown in SHOWN} == set(FORMATS.values())


def test_names_that_quantise_nothing() -> None:
    assert [is_plain(name) for name in ("", "F16", "f32", "q8", "q7")] == [True] * 3 + [False] * 2
