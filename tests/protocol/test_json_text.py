from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from helexa.protocol.json_text import to_json
from tests.protocol.builders import quick

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)  # fmt: skip


@quick
@given(anything)
def test_what_is_written_is_one_line_and_reads_back(value: Any) -> None:
    body = to_json(value)
    assert len(body.decode("utf-8").splitlines()) <= 1
    # Two halves of a pair side by side are read as the character they make.
    assert json.loads(body) == json.loads(json.dumps(value))


def test_text_stays_readable() -> None:
    assert to_json({"a": "kůň 你"}) == '{"a":"kůň 你"}'.encode()


def test_half_a_pair_is_escaped() -> None:
    assert to_json(["\ud800", "\u2028"]) == b'["\\ud800","\\u2028"]'
