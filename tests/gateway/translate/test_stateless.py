"""What newer clients ask for beside the conversation: threads that are kept, schemas to be met."""

from __future__ import annotations

import json
from typing import Any

import pytest

from helexa.gateway.refusals import OverContext, ThreadsNotKept
from helexa.gateway.translate.errors import renderer, upstream_error
from helexa.gateway.translate.request import translate_count, translate_request

SCHEMA: dict[str, Any] = {"type": "object", "properties": {"tame": {"type": "boolean"}}}
FORMAT: dict[str, Any] = {"type": "json_schema", "schema": SCHEMA}


def request(**more: Any) -> dict[str, Any]:
    return {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}], **more}


@pytest.mark.parametrize("translate", [translate_request, translate_count])
@pytest.mark.parametrize(
    "thread", [{"type": "create"}, {"type": "continue", "previous_message_id": "msg_1"}, "x"]
)
def test_threads_are_refused(translate: Any, thread: Any) -> None:
    with pytest.raises(ThreadsNotKept):
        translate(request(thread=thread))
    assert translate(request(thread=None)).model == "m"


def test_the_refusal_says_what_the_client_looks_for() -> None:
    body = json.loads(renderer("r")(ThreadsNotKept()).body)
    assert body["error"]["details"] == {
        "error_code": "thread_unsupported_request",
        "unsupported": ["thread"],
    }
    assert (body["type"], body["error"]["type"]) == ("error", "invalid_request_error")


def test_no_other_error_has_more_than_the_dialect_knows() -> None:
    own = renderer("r")(OverContext(9, 5, anthropic=True))
    told = {"error": {"message": "m", "code": "c", "max": 5, "details": {"a": 1}}}
    theirs = upstream_error(400, json.dumps(told).encode(), None, "r")
    for answer in (own, theirs):
        assert set(json.loads(answer.body)["error"]) == {"type", "message", "code"}


@pytest.mark.parametrize(
    ("config", "own", "expected"),
    [
        ({"format": FORMAT}, None, SCHEMA),
        ({"format": FORMAT, "effort": "low"}, None, SCHEMA),
        ({"format": FORMAT}, {"type": "text"}, None),
        ({"format": {"type": "grammar"}}, None, None),
        ({"format": {"type": "json_schema"}}, None, None),
        ({"format": None}, None, None),
        ("x", None, None),
    ],
    ids=["schema", "effort", "own words count", "unknown", "no schema", "null", "no object"],
)
def test_an_answer_is_held_to_a_schema(config: Any, own: Any, expected: Any) -> None:
    given = {} if own is None else {"response_format": own}
    chat = translate_request(request(output_config=config, **given)).body
    if expected is None:
        assert chat.get("response_format") == own
    else:
        wanted = {"name": "answer", "schema": expected}
        assert chat["response_format"] == {"type": "json_schema", "json_schema": wanted}
