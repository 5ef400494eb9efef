"""LiteLLM as a client of both dialects, through a gateway, against a real model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.clients.asked import (
    GOOD,
    HELLO,
    PARIS,
    PONG,
    ROLLING,
    SMALL,
    SPENT,
    SUM,
    SUNNY,
    TOO_LONG,
    WEATHER,
)
from tests.gateway.gateway_process import GatewayProcess

CALLS = Path(__file__).with_name("litellm_calls.py")
# It fetches prices and reads `.env` at import, unless it is told not to.
QUIET = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MODE": "PRODUCTION"}

TOOL: Any = {"type": "function", "function": WEATHER}
STREAM: Any = {"stream": True, "stream_options": {"include_usage": True}}
ASKED: Any = {"temperature": 0, "max_tokens": 60, "num_retries": 0, "api_key": GOOD}
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "key": ({"api_key": "sk-wrong"}, "AuthenticationError"),
    "model": ({"model": "o/absent"}, "NotFoundError"),
    "context": ({"messages": TOO_LONG}, "ContextWindowExceededError"),
    "balance": ({"api_key": SPENT}, "RateLimitError"),
    "window": ({"api_key": ROLLING}, "RateLimitError"),
}
CASES: dict[str, dict[str, Any]] = {
    "chat": {},
    "stream": STREAM,
    "async": {"async": True},
    "async stream": {"async": True, **STREAM},
    "system": {"messages": [{"role": "system", "content": PONG}, *HELLO]},
    "cut": {"max_tokens": 3},
    "tools": {"messages": PARIS, "tools": [TOOL], "then": SUNNY},
    "tools in a stream": {"messages": PARIS, "tools": [TOOL], "stream": True},
    "required": {"tools": [TOOL], "tool_choice": "required"},
    **{f"wrong {name}": {"messages": HELLO, **asked} for name, (asked, _) in WRONG.items()},
    **{
        f"wrong {name} in a stream": {**asked, "stream": True} for name, (asked, _) in WRONG.items()
    },
}
# Each dialect has its own word for it; LiteLLM lets Anthropic's pass for models that it knows.
THINKING: dict[str, dict[str, Any]] = {
    "openai": {"extra_body": {"chat_template_kwargs": {"enable_thinking": True}}},
    "anthropic": {
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        **{"allowed_openai_params": ["thinking"], "max_tokens": 1200, "temperature": 1},
    },
}


def arguments(dialect: str, base: str, given: dict[str, Any]) -> dict[str, Any]:
    """All that a call takes."""
    asked = {**ASKED, "messages": HELLO, "model": SMALL, "api_base": base, **given}
    return {**asked, "model": f"{dialect}/{asked['model']}"}


@pytest.fixture(scope="module")
def outcomes(gw: GatewayProcess) -> dict[str, dict[str, Any]]:
    """What came of all calls, by the dialect and the name."""
    bases = {"openai": f"{gw.url}/v1", "anthropic": gw.url}
    cases = {
        f"{dialect} {name}": arguments(dialect, base, given)
        for dialect, base in bases.items()
        for name, given in {**CASES, "thinking": {"messages": SUM, **THINKING[dialect]}}.items()
    }
    done = subprocess.run(
        [sys.executable, str(CALLS)],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        env={**os.environ, **QUIET},
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return found


class Found:
    """The outcomes of one dialect."""

    def __init__(self, outcomes: dict[str, dict[str, Any]], dialect: str) -> None:
        self._outcomes = outcomes
        self._dialect = dialect

    def __getitem__(self, name: str) -> dict[str, Any]:
        return self._outcomes[f"{self._dialect} {name}"]

    def said(self, name: str) -> str:
        assert "message" in self[name], self[name]
        return str(self[name]["message"]["content"])


@pytest.fixture(params=["openai", "anthropic"])
def found(request: pytest.FixtureRequest, outcomes: dict[str, dict[str, Any]]) -> Found:
    return Found(outcomes, request.param)


def test_a_chat_in_all_four_ways(found: Found) -> None:
    ways = ("chat", "stream", "async", "async stream")
    said, usage = found.said("chat"), found["chat"]["usage"]
    assert "tiny" in said
    for way in ways:
        assert (found.said(way), found[way]["usage"], found[way]["reason"]) == (said, usage, "stop")
        assert found[way].get("chunks", 9) > 5
    assert min(usage) > 5


def test_the_system_prompt_and_the_length(found: Found) -> None:
    assert found.said("system") == "PONG"
    assert (found["cut"]["reason"], found["cut"]["usage"][1]) == ("length", 3)


def test_tools(found: Found) -> None:
    for name in ("tools", "tools in a stream"):
        assert found[name]["reason"] == "tool_calls"
        (call,) = found[name]["message"]["tool_calls"]
        assert call["function"]["name"] == "get_weather"
        assert json.loads(call["function"]["arguments"]) == {"city": "Paris"}
    assert "sunny" in found["tools"]["second"]["message"]["content"]
    assert found["required"]["message"]["tool_calls"]


def test_thinking(found: Found) -> None:
    message = found["thinking"]["message"]
    assert message["reasoning_content"]
    assert message["content"]


@pytest.mark.parametrize("name", WRONG)
def test_a_refusal_is_the_librarys_own_class(found: Found, name: str) -> None:
    _, kind = WRONG[name]
    for case in (f"wrong {name}", f"wrong {name} in a stream"):
        assert kind in found[case].get("raised", ()), found[case]
