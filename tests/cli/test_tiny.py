"""The commands with the model that ships, in this process."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from click.testing import CliRunner, Result

from helexa.cli.main import cli
from helexa.cli.services import Services
from helexa.llm import LLM


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM("tiny") as model:
        yield model


def run(*args: str, typed: Sequence[str] = ()) -> Result:
    lines = iter(typed)

    def read_line(_prompt: str) -> str:
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    world = Services(read_line=read_line, interactive=lambda: bool(typed))
    return CliRunner().invoke(cli, list(args), prog_name="helexa", obj=world)


def document(*args: str) -> Any:
    done = run(*args, "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    return json.loads(done.stdout)


def test_a_text_goes_on_as_in_the_library(llm: LLM) -> None:
    for extra in (["-t", "0"], ["--seed", "5", "-t", "1"]):
        found = document("generate", "tiny", "Once upon a time", "-n", "12", *extra)
        same = llm.generate("Once upon a time", max_tokens=12, **(asked(extra)))
        assert (found["text"], found["finish_reason"]) == (same.text, same.finish_reason)
        assert found["usage"]["completion_tokens"] == same.usage.completion_tokens


def asked(extra: list[str]) -> dict[str, Any]:
    return {"temperature": 0} if "0" in extra else {"seed": 5, "temperature": 1}


def test_turns_are_answered_and_the_second_finds_the_first_in_the_cache() -> None:
    found = document("chat", "-m", "Hello! Who are you?", "-m", "What can you do?", "-t", "0")
    first, second = found["answers"]
    assert first["text"]
    assert second["text"]
    assert second["usage"]["cached_tokens"] >= 16
    assert first["usage"]["prompt_tokens"] < second["usage"]["prompt_tokens"]


def test_thinking_is_a_switch() -> None:
    question = ["chat", "-m", "What is 12 + 30?", "-t", "0"]
    (without,) = document(*question, "--no-think")["answers"]
    (thought,) = document(*question, "--think")["answers"]
    assert without["reasoning"] == ""
    assert thought["reasoning"] != ""
    assert thought["usage"]["reasoning_tokens"] > 0


def test_a_typed_chat_with_it() -> None:
    typed = ["/set temperature 0", "Hello! Who are you?", "/set max_tokens 2", "And what else?"]
    done = run("chat", typed=typed)
    assert done.exit_code == 0
    assert done.stdout.startswith("tiny · ")
    assert done.stdout.count("tok/s") == 2
    assert "2 tokens · " in done.stdout
    assert "cut off at the token limit" in done.stdout


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["generate", "tiny", "x " * 9000], "tokens, at most"),
        (["generate", "tiny", "x", "--kv-memory-mb", "99999999"], "kv_memory_mb"),
    ],
    ids=["long prompt", "memory"],
)
def test_what_does_not_fit_is_an_error_with_a_way_out(args: list[str], says: str) -> None:
    done = run(*args)
    error, hint = done.stderr.splitlines()
    assert done.exit_code == 1
    assert error.startswith("error: ")
    assert says in error
    assert hint.startswith("hint: ")


def test_inspecting_it_says_what_loading_it_finds(llm: LLM) -> None:
    found = document("inspect")
    info = llm.info
    assert found["supported"]
    assert found["parameters"] == info.parameters
    needs = {need["dtype"]: need for need in found["memory"]}
    assert needs[info.dtype]["fits"][0]["context_tokens"] == info.max_context
    assert needs["float32"]["kv_bytes_per_token"] == info.kv_bytes_per_token
    told = run("inspect").stdout
    assert "matrices of less than half a million numbers are kept in float32" in told
    assert "keeps the KV cache of this model in float32" in told


def test_it_is_listed_as_runnable(tmp_path: Any) -> None:
    (tiny,) = document("models", "--cache-dir", str(tmp_path))
    assert tiny["supported"]
    assert "cpu" in tiny["fits"]
    assert tiny["size_bytes"] < 8 * 2**20
