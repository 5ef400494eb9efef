"""Reasoning, calls and templates as a client sees them, of models that say what they should."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helexa.neuron.config import AdmissionConfig, EngineSection
from tests.neuron.daemons import HELLO, Daemon
from tests.neuron.plays import CHAT, RESPONSES, TINY_FOLDER, Troupe, X, chat, frames, staged

OPENED, RAISING = "play:o/opened", "play:o/raising"
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.content }}{% endfor %}<|im_start|>assistant\n"
PLAIN = {"<think>": "<mull>", "</think>": "</mull>", "<tool_call>": "<a>", "</tool_call>": "</a>"}
RESPONSE = {"<tool_response>": "[THINK]", "</tool_response>": "[/THINK]"}
MARKED: dict[str, dict[str, str]] = {
    "square": {"<think>": "[THINK]", "</think>": "[/THINK]"},
    "half": {"</think>": "<end>"},
    "none": PLAIN,
    "both": RESPONSE,
}
FLAGS = {
    "x": (True, True),
    "square": (True, True),
    "half": (False, True),
    "none": (False, False),
    "both": (True, True),
}
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
ASKED: Any = [{"role": "user", "content": "Good\nday"}, {"role": "system", "content": "Be"}]
BOTH = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


def own(folder: Path, name: str, text: str) -> None:
    """Give a model a file of its own in place of tiny's."""
    (folder / name).unlink()
    (folder / name).write_text(text)


@pytest.fixture(scope="module")
def troupe(tmp_path_factory: pytest.TempPathFactory) -> Troupe:
    troupe = Troupe(tmp_path_factory.mktemp("models"))
    troupe.model("x")
    own(troupe.model("opened"), "chat_template.jinja", f"{TEMPLATE}<think>\n")
    raising = "{% if messages %}{{ raise_exception('not today') }}{% endif %}"
    own(troupe.model("raising"), "chat_template.jinja", raising)
    for name, renamed in MARKED.items():
        text = (TINY_FOLDER / "tokenizer.json").read_text()
        for old, new in renamed.items():
            text = text.replace(f'"{old}"', f'"{new}"')
        own(troupe.model(name), "tokenizer.json", text)
    return troupe


@pytest.fixture(scope="module")
def daemon(troupe: Troupe) -> Iterator[Daemon]:
    engine = EngineSection(admission=AdmissionConfig(max_in_flight=1))
    models = (X, OPENED, RAISING, *(f"play:o/{name}" for name in MARKED))
    with staged(troupe, engine, models) as daemon:
        yield daemon


@BOTH
def test_n066_render_failure_with_tools(daemon: Daemon, stream: bool) -> None:
    body = {"model": RAISING, "messages": HELLO, "tools": TOOLS, "stream": stream}
    answer = daemon.http.post(CHAT, json=body)
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert error["message"].startswith("chat template could not render this request: ")
    assert "not today" in error["message"]
    assert {key: error[key] for key in ("type", "code", "param")} == {
        "type": "invalid_request_error",
        "code": "template_render_failed",
        "param": None,
    }
    assert "retry-after" not in answer.headers


def test_n066_render_failure_of_a_response(daemon: Daemon) -> None:
    tool = {"type": "function", "name": "look", "parameters": {"type": "object"}}
    body = {"model": RAISING, "input": "Hi", "tools": [tool], "stream": True}
    answer = daemon.http.post(RESPONSES, json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "template_render_failed")


@BOTH
def test_n066_render_failure_without_tools(daemon: Daemon, troupe: Troupe, stream: bool) -> None:
    said = chat(daemon, stream=stream, messages=ASKED, **troupe.play("fine", model=RAISING))
    tokens = daemon.post("/tokenize", model=RAISING, messages=ASKED).json()
    told = daemon.post("/detokenize", model=RAISING, tokens=tokens["tokens"]).json()
    assert told["prompt"] == (
        "<|im_start|>user\nGood\nday<|im_end|>\n<|im_start|>system\nBe<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert (said.content, said.usage["prompt_tokens"]) == ("fine", tokens["count"])


def test_n067_marker_flags(daemon: Daemon) -> None:
    infos = {info["id"]: info for info in daemon.http.get("/models").json()}
    found = {name: infos[f"play:o/{name}"] for name in FLAGS}
    assert {name: (i["reasoning"], i["tool_call"]) for name, i in found.items()} == FLAGS


@pytest.mark.parametrize(
    ("name", "markers"),
    [("square", ("[THINK]", "[/THINK]")), ("both", ("<think>", "</think>"))],
)
def test_n067_the_markers_that_are_used(
    daemon: Daemon, troupe: Troupe, name: str, markers: tuple[str, str]
) -> None:
    begin, end = 1018, 1019
    play = troupe.play(begin, "hm", end, "yes", model=f"play:o/{name}")
    shown = chat(daemon, stream=False, headers={"x-include-thinking": "true"}, **play)
    assert shown.content == f"{markers[0]}hm{markers[1]}yes"
    assert chat(daemon, stream=True, **play).reasoning == "hm"


@BOTH
@pytest.mark.parametrize(
    ("model", "script", "expected"),
    [
        ("opened", ["a", "b", "</think>", "c", "d"], ("cd", "ab", 2)),
        ("opened", ["a", "b", "</think>"], ("", "ab", 2)),
        ("opened", ["a", "b", "c"], ("", "abc", 3)),
        ("opened", ["</think>", "a", "</think>", "c"], ("ac", None, 0)),
        ("x", ["<think>", "a", "b", "</think>", "c"], ("c", "ab", 2)),
        ("x", ["c", "d"], ("cd", None, 0)),
        ("none", [1018, "a", 1019, "c"], ("<mull>a</mull>c", None, 0)),
    ],
)
def test_n068_reasoning_split(
    daemon: Daemon,
    troupe: Troupe,
    *,
    stream: bool,
    model: str,
    script: list[str | int],
    expected: tuple[str, str | None, int],
) -> None:
    """Content, reasoning, and how many tokens that was."""
    play = troupe.play(*script, model=f"play:o/{model}")
    said = chat(daemon, stream=stream, chat_template_kwargs={"enable_thinking": True}, **play)
    details = said.usage.get("completion_tokens_details", {})
    count = details.get("reasoning_tokens", 0)
    assert (said.content, said.reasoning, count) == expected
    assert ("completion_tokens_details" in said.usage) == (count > 0)
    assert (said.reason, said.usage["completion_tokens"]) == ("stop", len(script))


def call(city: str) -> str:
    return f'<tool_call>\n{{"name": "look", "arguments": {{"at": "{city}"}}}}\n</tool_call>'


UNPARSABLE = "<tool_call>\nlook at that\n</tool_call>"
UNTERMINATED = '<tool_call>\n{"name": "look"'


@BOTH
@pytest.mark.parametrize(
    ("script", "content", "calls", "reason"),
    [
        (
            ["Let me check.\n", call("A"), "\nand\n", call("B"), "done"],
            "Let me check.\n\nand\ndone",
            ["A", "B"],
            "tool_calls",
        ),
        ([call("A")], "", ["A"], "tool_calls"),
        (["see ", UNPARSABLE], f"see {UNPARSABLE}", [], "stop"),
        (["see ", UNTERMINATED], f"see {UNTERMINATED}", [], "stop"),
        (["a", "</tool_call>", "b"], "ab", [], "stop"),
    ],
    ids=["two", "only", "unparsable", "unterminated", "stray"],
)
def test_n069_tools_both_modes(
    daemon: Daemon,
    troupe: Troupe,
    *,
    stream: bool,
    script: list[str],
    content: str,
    calls: list[str],
    reason: str,
) -> None:
    said = chat(daemon, stream=stream, tools=TOOLS, **troupe.play(*script))
    assert (said.content, said.reason) == (content, reason)
    assert [one["function"]["name"] for one in said.calls] == ["look"] * len(calls)
    made = [json.loads(one["function"]["arguments"]) for one in said.calls]
    assert made == [{"at": city} for city in calls]
    assert len({one["id"] for one in said.calls}) == len(calls)


@BOTH
def test_n071_a_stop_across_tokens(daemon: Daemon, troupe: Troupe, stream: bool) -> None:
    play = troupe.play("ab", "c", "d", "e")
    said = chat(daemon, stream=stream, stop="cd", **play)
    assert (said.content, said.reason) == ("ab", "stop")


@BOTH
def test_n071_a_stop_inside_reasoning(daemon: Daemon, troupe: Troupe, stream: bool) -> None:
    play = troupe.play("<think>", "ab", "c", "d", "</think>", "e")
    said = chat(daemon, stream=stream, stop="cd", **play)
    assert (said.content, said.reasoning, said.reason) == ("e", "abcd", "stop")


@BOTH
def test_n074_usage(daemon: Daemon, troupe: Troupe, stream: bool) -> None:
    play = troupe.play("<think>", "a", "</think>", "b", cached=8, timing=(200.4, 1500.0, 0.0))
    usage = chat(daemon, stream=stream, **play).usage
    prompt = usage["prompt_tokens"]
    assert usage["total_tokens"] == prompt + 4
    assert usage["prompt_tokens_details"] == {"cached_tokens": 8}
    assert usage["helexa_timing"] == {
        "prefill_ms": 200,
        "decode_ms": 1500,
        "prefill_tokens": prompt,
    }


@BOTH
@pytest.mark.parametrize(
    ("script", "limit", "reason"),
    [(["a", "b"], 2, "length"), ([call("A"), "b", "c"], 200, "tool_calls"), ([call("A")], 0, None)],
    ids=["length", "stop-and-call", "length-and-call"],
)
def test_n077_finish_map(
    daemon: Daemon,
    troupe: Troupe,
    *,
    stream: bool,
    script: list[str],
    limit: int,
    reason: str | None,
) -> None:
    limit = limit or len(troupe.tokenizer.encode(script[0], add_special_tokens=False))
    said = chat(daemon, stream=stream, tools=TOOLS, max_tokens=limit, **troupe.play(*script))
    assert said.reason == (reason or "length")
    assert bool(said.calls) == script[0].startswith("<tool_call>")


@pytest.mark.parametrize(
    ("script", "pieces"),
    [
        (
            ["<think>", "one", "two", "</think>", "end"],
            ["<think>", "one", "two", "</think>", "end"],
        ),
        (["<think>", "one", "two"], ["<think>", "one", "two", "</think>"]),
    ],
    ids=["closed", "cut"],
)
def test_n079_include_thinking(
    daemon: Daemon, troupe: Troupe, script: list[str], pieces: list[str]
) -> None:
    headers = {"x-include-thinking": "1"}
    play = troupe.play(*script)
    answer = daemon.http.post(
        CHAT, json={"messages": HELLO, "stream": True, **play}, headers=headers
    )
    chunks = frames(answer)
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    assert "".join(delta.get("content", "") for delta in deltas) == "".join(pieces)
    firsts = [delta["content"] for delta in deltas if "content" in delta]
    assert (firsts[0], "reasoning_content" in str(deltas)) == ("<think>", False)
    assert chat(daemon, stream=False, headers=headers, **play).content == "".join(pieces)
