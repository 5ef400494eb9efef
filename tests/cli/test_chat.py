"""`helexa chat` with a model that answers from a script."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from helexa.errors import EngineLost, NumericalError, PromptTooLong
from helexa.text.events import Event, Finish, Reasoning, Text, ToolCall, Usage

Run = Callable[..., Result]
USAGE = Usage(10, 4, 1, 8, 5.0, 30.0, 10)
STOPPED = [Text("half an"), KeyboardInterrupt()]
CALLS = [ToolCall(0, "c1", "add", '{"a": 1}'), Finish("tool_calls", USAGE)]


def test_an_answer_goes_to_stdout_and_the_rest_to_stderr(
    run: Run, model: Any, thinking: Sequence[Event]
) -> None:
    model.scripts = [thinking]
    done = run("chat", "-m", "2+2?", "--system", "be brief", "--think", "-t", "0")
    assert done.exit_code == 0
    assert done.stdout == "four\n"
    assert done.stderr.startswith("hmm so\n4 tokens · 100.0 tok/s · first token ")
    assert done.stderr.endswith(" ms · 8 of 10 prompt tokens cached\n")
    (asked,) = model.asked
    assert [m["role"] for m in asked["messages"]] == ["system", "user"]
    assert (asked["think"], asked["params"].temperature) == (True, 0.0)
    assert model.closed


def test_parts_begin_on_lines_of_their_own_without_empty_ones(run: Run, model: Any) -> None:
    parts = [Reasoning("\n"), Reasoning("\nso\n"), Text("\n\n"), Text("\na\n\nb"), *CALLS]
    model.scripts = [parts]
    assert "so\na\n\nb\n→ add({" in run("chat", typed=["x"]).stdout


def test_messages_are_turns_of_one_conversation(run: Run, model: Any) -> None:
    done = run("chat", "-q", "-m", "one", "-m", "-", "-m", "three", input="two\nlines\n")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "hello\nhello\nhello\n", "")
    contents = [m["content"] for m in model.asked[-1]["messages"]]
    assert contents == ["one", "hello", "two\nlines", "hello", "three"]


def test_what_is_piped_in_is_one_message(run: Run, model: Any) -> None:
    assert run("chat", input="first\nsecond\n").exit_code == 0
    assert [m["content"] for m in model.asked[0]["messages"]] == ["first\nsecond"]


def test_json_is_one_document(run: Run, model: Any, thinking: Sequence[Event]) -> None:
    model.scripts = [thinking, CALLS]
    done = run("chat", "--json", "-m", "a", "-m", "b")
    assert done.stderr == ""
    document = json.loads(done.stdout)
    assert [m["role"] for m in document["messages"]] == ["user", "assistant"] * 2
    first, second = document["answers"]
    assert (first["text"], first["reasoning"], first["finish_reason"]) == ("four", "hmm so", "stop")
    assert first["usage"]["cached_tokens"] == 8
    assert second["tool_calls"][0]["function"] == {"name": "add", "arguments": '{"a": 1}'}


def test_tools_are_read_from_a_file_and_calls_are_shown(
    run: Run, model: Any, tmp_path: Path
) -> None:
    tools = [{"type": "function", "function": {"name": "add"}}]
    file = tmp_path / "tools.json"
    file.write_text(json.dumps(tools))
    model.scripts = [CALLS]
    done = run("chat", "-m", "add", "--tools", str(file))
    assert done.stdout == '→ add({"a": 1})\n'
    assert model.asked[0]["tools"] == tools


@pytest.mark.parametrize(
    ("args", "piped", "says"),
    [
        (["-m", "x", "--temperature", "nan"], "", "'--temperature': temperature must be"),
        (["-m", "x", "--top-k", "-5"], "", "'--top-k'"),
        (["-m", "-", "-m", "-"], "x", "only one of the messages"),
        ([], "", "no message on stdin"),
        ([], b"\xff\xfe", "not UTF-8"),
        (["-m", "x", "--tools", __file__], "", "'--tools'"),
        (["-m", "x", "--tols", "y"], "", "--tools"),
    ],
)
def test_a_wrong_command_line_is_a_usage_error(
    run: Run, args: list[str], piped: str | bytes, says: str
) -> None:
    done = run("chat", *args, input=piped)
    assert done.exit_code == 2
    assert says in done.stderr


def test_json_wants_something_to_answer(run: Run) -> None:
    assert run("chat", "--json", typed=["hello"]).exit_code == 2


def test_an_error_is_one_line_and_a_hint(run: Run, model: Any) -> None:
    model.scripts = [[NumericalError("logits unhealthy", hint="try float32")]]
    done = run("chat", "-m", "x")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == "error: logits unhealthy\nhint: try float32\n"
    assert model.closed


def test_debug_lets_the_traceback_through(run: Run, model: Any) -> None:
    for args in (("--debug", "chat", "-m", "x"), ("chat", "-m", "x", "--debug")):
        model.scripts = [[NumericalError("logits unhealthy")]]
        assert isinstance(run(*args).exception, NumericalError)


def test_an_interrupt_of_one_shot_turns_ends_the_program(run: Run, model: Any) -> None:
    model.scripts = [STOPPED]
    done = run("chat", "-m", "x", "-m", "y")
    assert (done.exit_code, done.stdout) == (130, "half an\n")
    assert (model.aborted, model.closed, len(model.asked)) == (1, True, 1)


# --- typed ---


def test_a_typed_conversation(run: Run, model: Any) -> None:
    done = run("chat", typed=["hi", "", "and\\", "now"])
    assert done.exit_code == 0
    assert "tiny · 4.1M parameters · float32 on cpu" in done.stdout
    assert done.stdout.count("hello\n4 tokens") == 2
    assert [m["content"] for m in model.asked[1]["messages"]] == ["hi", "hello", "and\nnow"]


def test_quiet_is_quiet_in_a_typed_conversation(run: Run, model: Any) -> None:
    done = run("chat", "-q", typed=["hi"])
    assert done.exit_code == 0
    assert "hello" in done.stdout
    assert "tok/s" not in done.stdout


def test_a_full_context_says_how_to_start_over(run: Run, model: Any) -> None:
    model.scripts = [[PromptTooLong(9, 8)]]
    done = run("chat", typed=["hi", "ho"])
    assert "hint: /reset starts over; or shorten the prompt" in done.stderr
    assert len(model.asked) == 2


def test_a_blank_message_is_a_usage_error(run: Run, model: Any) -> None:
    assert run("chat", "-m", " ").exit_code == 2
    assert run("chat", "-m", "x", "-t", "-1").exit_code == 2


def test_an_interrupt_stops_the_answer_and_keeps_what_came(run: Run, model: Any) -> None:
    model.scripts = [STOPPED, [KeyboardInterrupt()]]
    done = run("chat", typed=["one", "two", "three"])
    assert done.exit_code == 0
    assert done.stdout.count("stopped") == 2
    assert model.aborted == 2
    contents = [m["content"] for m in model.asked[2]["messages"]]
    assert contents == ["one", "half an", "three"]  # "two" brought nothing


def test_two_interrupts_at_the_prompt_leave(run: Run, model: Any) -> None:
    once = run("chat", typed=[KeyboardInterrupt(), "hi", KeyboardInterrupt(), "ho"])
    assert (once.exit_code, len(model.asked)) == (0, 2)
    twice = run("chat", typed=[KeyboardInterrupt(), KeyboardInterrupt(), "hi"])
    assert (twice.exit_code, len(model.asked)) == (130, 2)
    assert "^C again, or ^D, leaves" in twice.stdout


def test_an_interrupt_forgets_half_an_input(run: Run, model: Any) -> None:
    run("chat", typed=['"""', "half", KeyboardInterrupt(), "whole"])
    assert [m["content"] for m in model.asked[0]["messages"]] == ["whole"]


def test_settings_and_system_reach_the_model(run: Run, model: Any) -> None:
    typed = ["/system be brief", "/set temperature 0.2", "/set thinking off", "hi"]
    done = run("chat", typed=[*typed, "/reset", "/set temperature default", "ho", "/exit", "no"])
    assert done.exit_code == 0
    assert "temperature 0.2" in done.stdout
    first, second = model.asked
    assert (first["params"].temperature, first["think"]) == (0.2, False)
    assert second["params"].temperature is None
    assert [m["content"] for m in second["messages"]] == ["be brief", "ho"]


def test_wrong_input_is_explained_and_the_chat_goes_on(
    run: Run, model: Any, tmp_path: Path
) -> None:
    (tmp_path / "bad.json").write_text("{")
    typed = ["/sett x 1", "/set temprature 1", "/set top_p x", "/load /no/such", "/result 3"]
    typed += ["/save ~nobody-at-all/x", "/load ~nobody-at-all/x", "/set temperature -1"]
    done = run("chat", typed=[*typed, f"/load {tmp_path}/bad.json", f"/save {tmp_path}", "hi"])
    assert done.exit_code == 0
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 10
    assert sum("nobody-at-all" in error for error in errors) == 2
    assert "did you mean /set" in done.stderr
    assert len(model.asked) == 1


def test_a_failed_answer_leaves_the_chat_as_it_was(run: Run, model: Any) -> None:
    model.scripts = [[Text("par"), NumericalError("logits unhealthy")]]
    done = run("chat", typed=["one", "two"])
    assert done.exit_code == 0
    assert "error: logits unhealthy" in done.stderr
    assert [m["content"] for m in model.asked[1]["messages"]] == ["two"]


def test_a_lost_engine_ends_the_chat(run: Run, model: Any) -> None:
    model.scripts = [[EngineLost("the engine is gone")]]
    done = run("chat", typed=["one", "two"])
    assert (done.exit_code, len(model.asked)) == (1, 1)


def test_a_conversation_is_saved_and_goes_on_later(run: Run, model: Any, tmp_path: Path) -> None:
    file = tmp_path / "chat one.json"
    run("chat", typed=["/set seed 3", "hi", f"/save {file}"])
    assert json.loads(file.read_text())["model"] == "tiny"
    run("chat", typed=[f"/load {file}", "again"])
    assert [m["content"] for m in model.asked[1]["messages"]] == ["hi", "hello", "again"]
    assert model.asked[1]["params"].seed == 3


def test_a_conversation_of_openai_s_clients_goes_on(run: Run, model: Any, tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    answer = {"role": "assistant", "content": "hello", "tool_calls": None}
    file.write_text(json.dumps([{"role": "user", "content": "hi"}, answer]))
    done = run("chat", typed=[f"/load {file}", "/result 5", "again"])
    assert done.exit_code == 0
    assert done.stderr == "error: no tool call is waiting for a result\n"
    assert [m["content"] for m in model.asked[0]["messages"]] == ["hi", "hello", "again"]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'[{"role": "user", "content": "a"}, {"role": "system"}]', "messages[1] is of role"),
        (b'{"messages": [], "settings": {"thinking": "maybe"}}', "thinking is on or off"),
        (b'["\xff"]', "not UTF-8"),
    ],
    ids=["message", "setting", "bytes"],
)
def test_a_file_that_does_not_load_is_named(
    run: Run, model: Any, tmp_path: Path, data: bytes, says: str
) -> None:
    file = tmp_path / "chat.json"
    file.write_bytes(data)
    done = run("chat", typed=["hi", f"/load {file}", "again"])
    assert done.exit_code == 0
    assert done.stderr.startswith(f"error: {file}: ")
    assert says in done.stderr
    assert [m["content"] for m in model.asked[1]["messages"]] == ["hi", "hello", "again"]


def test_a_tool_result_is_typed(run: Run, model: Any) -> None:
    model.scripts = [CALLS]
    done = run("chat", typed=["add", "/result 3"])
    assert '→ add({"a": 1})\n' in done.stdout
    assert "add waits: /result TEXT" in done.stdout
    assert [m["role"] for m in model.asked[1]["messages"]] == ["user", "assistant", "tool"]


def test_help_lists_every_command(run: Run) -> None:
    done = run("chat", typed=["/help"])
    for word in ("/system", "/set", "/save", "/exit", "temperature", "thinking", "^C"):
        assert word in done.stdout
