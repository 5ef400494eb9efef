"""As many lines as there are results can be told apart."""

from __future__ import annotations

from benchmarks.line_plot import styles


def test_ten_kinds_and_their_variants_look_different() -> None:
    kinds = [f"kind {index}" for index in range(10)]
    names = [*kinds, *(f"{kind}, compiled" for kind in kinds)]
    found = styles(dict.fromkeys(names))
    assert len(set(found.values())) == 20
    assert all(found[kind][0] == found[f"{kind}, compiled"][0] for kind in kinds)


def test_a_compiled_line_is_dashed_even_alone() -> None:
    (look,) = styles({"dense, compiled": None}).values()
    assert look[1]
