from __future__ import annotations

import re

import pytest

from helexa.protocol.ids import chat_id, completion_id, message_id, request_id, response_id


@pytest.mark.parametrize(
    ("make", "prefix"),
    [
        (chat_id, "chatcmpl-"),
        (completion_id, "cmpl-"),
        (response_id, "resp_"),
        (message_id, "msg_"),
        (lambda: request_id(None), "req_"),
    ],
)
def test_ids_are_a_prefix_and_32_digits(make, prefix: str) -> None:  # type: ignore[no-untyped-def]  # a table
    assert re.fullmatch(re.escape(prefix) + "[0-9a-f]{32}", make())
    assert make() != make()


def test_n025_request_id() -> None:
    for good in ("abc", "!" * 128, "~"):
        assert request_id(good) == good
    for bad in ("", "a b", "é", "x" * 129, "a\n"):
        assert re.fullmatch(r"req_[0-9a-f]{32}", request_id(bad))
