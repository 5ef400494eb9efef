"""What a request may take, from its text alone."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helexa.gateway.proxy.advice import advice_for
from helexa.gateway.proxy.estimate import (
    MOST_TOKENS,
    TOKENS_PER_IMAGE,
    need,
    output_tokens,
    prompt_estimate,
    require_fit,
    tools_estimate,
    without_images,
)
from helexa.gateway.proxy.wires import CHAT, COMPLETIONS, MESSAGES, RESPONSES, Wire
from helexa.gateway.refusals import OverContext
from tests.waiting import least_s

LONG = {"model": "m", "messages": [{"role": "user", "content": "word " * 240}]}
DATA_URI = "data:image/png;base64," + "A" * 1_000_000


def image(kind: str, url: Any) -> dict[str, Any]:
    return {"type": kind, "image_url": url}


def needed(body: Any, advertised: int | None = None) -> Any:
    return need(json.dumps(body).encode(), body, CHAT.limits, advertised)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (LONG, 302),
        ({"messages": [{"content": "hi"}]}, 2),
        ({"messages": []}, 1),
        (
            {
                "messages": [
                    {"content": [{"text": "abcd"}, {"text": "efgh"}, image("image_url", "x")]}
                ]
            },
            4,
        ),
        ({"messages": [{"content": "é" * 4}]}, 4),
        ({"messages": [{"content": "\ud800"}, None, 5]}, 6),
        ({"messages": LONG["messages"], "prompt": "x" * 4000}, 302),
        ({"prompt": "x" * 400}, 100),
        ({"prompt": ["x" * 400, "y" * 400]}, 200),
        ({"prompt": [1, 2, 3]}, 3),
        ({"prompt": []}, 1),
        ({"prompt": "", "input": "x" * 400}, 1),
        ({"input": "x" * 400}, 100),
        ({"input": "x" * 400, "instructions": "y" * 40}, 110),
        ({"instructions": "y" * 40}, 10),
        ({"input": [{"role": "user", "content": "x" * 32}, {"content": [{"text": "y" * 32}]}]}, 20),
        ({"messages": "x" * 400}, None),
        ({"prompt": 5}, None),
        ({"input": {"a": "x" * 400}}, None),
        ({}, None),
    ],
)
def test_estimates_of_prompts(body: dict[str, Any], expected: int | None) -> None:
    assert prompt_estimate(body) == expected


def test_g173_over_long() -> None:
    with pytest.raises(OverContext) as caught:
        require_fit(LONG, 50, "litellm/1.0")
    error = caught.value
    assert (error.status, error.code) == (400, "context_length_exceeded")
    assert error.extras == {"max": 50, "estimated_prompt_tokens": 302}
    assert error.advice == advice_for("LiteLLM/2")
    assert "50" in error.message
    assert "~302" in error.message
    assert error.advice not in error.message


def test_g174_within() -> None:
    require_fit({"messages": [{"role": "user", "content": "hi"}]}, 4096, None)
    require_fit(LONG, 302, None)


def test_g175_no_advice() -> None:
    with pytest.raises(OverContext) as caught:
        require_fit(LONG, 50, None)
    assert caught.value.advice == ""


def test_g139_in_anthropics_words() -> None:
    with pytest.raises(OverContext) as caught:
        require_fit(LONG, 50, None, anthropic=True)
    assert caught.value.message == "prompt is too long: 302 tokens > 50 maximum"


@pytest.mark.parametrize(
    "body",
    [
        {"input": [{"content": [image("input_image", DATA_URI), {"text": "what is it?"}]}]},
        {"messages": [{"content": [image("image_url", {"url": DATA_URI}), {"text": "what?"}]}]},
    ],
)
def test_g176_images_are_not_text(body: dict[str, Any]) -> None:
    require_fit(body, 4096, None)


@pytest.mark.parametrize(
    ("agent", "begins"),
    [
        ("litellm/1.0", "litellm forwards"),
        ("Agent-Zero", "reduce the conversation"),
        ("my agent zero 2", "reduce the conversation"),
        ("Zed/0.150", "reduce the assistant"),
        ("litellm via zed", "litellm"),
        ("curl/8", ""),
        ("", ""),
        (None, ""),
    ],
)
def test_advice(agent: str | None, begins: str) -> None:
    assert advice_for(agent).startswith(begins)
    assert bool(advice_for(agent)) == bool(begins)


@pytest.mark.parametrize(
    ("body", "advertised", "expected"),
    [
        ({"max_completion_tokens": 256, "max_tokens": 99}, None, 256),
        ({"max_tokens": 128}, None, 128),
        ({"max_completion_tokens": None, "max_tokens": 128}, None, 128),
        ({"max_tokens": 0}, 8192, 0),
        ({"max_tokens": -1}, 8192, 8192),
        ({"max_tokens": True, "n": True}, None, 4096),
        ({"max_tokens": "5"}, 8192, 8192),
        ({}, 8192, 8192),
        ({}, None, 4096),
        ({"n": 3, "max_tokens": 10}, None, 30),
        ({"n": 2, "best_of": 4, "max_tokens": 10}, None, 40),
        ({"n": 0, "max_tokens": 10}, None, 10),
        ({"n": None, "best_of": "4", "max_tokens": 10}, None, 10),
    ],
)
def test_g164_output(body: dict[str, Any], advertised: int | None, expected: int) -> None:
    assert output_tokens(body, CHAT.limits, advertised) == expected


@pytest.mark.parametrize(
    ("wire", "heeded"),
    [
        (CHAT, {"max_completion_tokens": 7, "max_tokens": 9}),
        (MESSAGES, {"max_completion_tokens": 7, "max_tokens": 9}),
        (COMPLETIONS, {"max_tokens": 9}),
        (RESPONSES, {"max_output_tokens": 8}),
    ],
    ids=lambda value: value.name if isinstance(value, Wire) else "",
)
def test_the_limit_of_another_dialect_is_none(wire: Wire, heeded: dict[str, int]) -> None:
    names = ("max_completion_tokens", "max_output_tokens", "max_tokens")
    for name in names:
        expected = heeded.get(name, 100)
        assert output_tokens({name: heeded.get(name, 0)}, wire.limits, 100) == expected
    assert output_tokens(dict.fromkeys(names, 0) | heeded, wire.limits, 100) == min(heeded.values())


def test_g164_totals() -> None:
    raw = b'{"model":"m","max_tokens":1000}'
    assert len(raw) == 31
    assert need(raw, json.loads(raw), CHAT.limits, 8192).total == 1007
    assert needed({"model": "m"}, 8192).total >= 8192
    assert needed({"model": "m"}).total >= 4096


def test_g164_a_data_uri_is_not_text() -> None:
    body = {"messages": [{"content": [image("image_url", {"url": DATA_URI})]}]}
    assert TOKENS_PER_IMAGE <= needed(body).prompt < 2400


def test_g150_a_small_body_reserves_40() -> None:
    raw = json.dumps({"model": "test-model", "max_tokens": 20, "messages": []}).encode()
    padded = raw[:-1] + b" " * (82 - len(raw)) + b"}"
    assert need(padded, json.loads(padded), CHAT.limits, None).total == 40


def test_no_reserve_is_too_large_for_a_ledger() -> None:
    assert needed({"max_tokens": 10**30, "n": 10**30}).total == MOST_TOKENS


JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(st.characters(exclude_categories=()), max_size=8),  # half characters, too
        st.text(max_size=8).map("data:{}".format),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["content", "text", "role", "type", "image_url"]), inner, max_size=3
        ),
    ),
    max_leaves=6,
)
BODIES = st.dictionaries(
    st.sampled_from(
        [
            *("messages", "prompt", "input", "instructions", "tools", "n", "best_of"),
            *("max_completion_tokens", "max_output_tokens", "max_tokens"),
        ]
    ),
    JSON,
)


@given(BODIES)
def test_no_body_makes_it_fail(body: dict[str, Any]) -> None:
    estimated = prompt_estimate(body)
    assert estimated is None or estimated >= 1
    assert tools_estimate(body) >= 0
    found = needed(body)
    assert found.prompt >= 1
    assert 0 <= found.output <= MOST_TOKENS


URI = "data:image/png;base64,AA/+"
TEXT = "data: " + "word " * 5000


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"content": [image("image_url", {"url": URI})]}]},
        {"messages": [{"content": [image("image_url", URI)]}]},
        {"messages": [{"content": [{"type": "file", "file": {"file_data": URI}}]}]},
        {"input": [{"content": [image("input_image", URI)]}]},
        {"input": [{"content": [{"type": "input_file", "file_data": URI}]}]},
    ],
)
@pytest.mark.parametrize("escaped", [False, True])
def test_what_stands_for_an_image_is_one(body: dict[str, Any], escaped: bool) -> None:
    raw = json.dumps(body).encode()
    size = len(raw) - len(URI) - 2
    raw = raw.replace(b"/", b"\\/") if escaped else raw
    assert without_images(raw, body) == (size, 1)


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": TEXT},
        {"prompt": [TEXT]},
        {"input": TEXT},
        {"instructions": TEXT},
        {"messages": [{"content": TEXT}]},
        {"messages": [TEXT]},
        {"messages": [{"content": [TEXT]}]},
        {"messages": [{"content": [{"type": "text", "text": TEXT}]}]},
        {"tools": [{"function": {"parameters": {"url": TEXT}}}]},
    ],
)
def test_a_text_that_begins_like_an_image_is_a_text(body: dict[str, Any]) -> None:
    raw = json.dumps(body).encode()
    assert without_images(raw, body) == (len(raw), 0)
    assert needed(body).prompt >= len(TEXT) // 4


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [0] * (4 << 20)},
        {"messages": [{"content": [None] * (4 << 20)}]},
        {"input": [{"content": [{"text": "x"}] * (4 << 20)}]},
        {"prompt": [""] * (4 << 20)},
    ],
)
def test_many_parts_are_measured_at_once(body: dict[str, Any]) -> None:
    def measure() -> None:
        assert prompt_estimate(body) is not None
        assert without_images(b'"data:', body) == (6, 0)

    assert least_s(measure) < 1  # each takes some 50 milliseconds


def test_tools_are_counted_as_their_json() -> None:
    assert tools_estimate({"tools": [{"type": "function"}]}) == 23 // 4
    assert tools_estimate({"tools": None}) == 0
