"""`helexa generate` with a model that answers from a script."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import Result

from helexa.cli.generate import split
from helexa.engine.outputs import DraftCounts
from helexa.text.events import Finish, Text, Usage

Run = Callable[..., Result]
USAGE = Usage(10, 4, 0, 0, 5.0, 30.0, 10)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A hub cache that holds org/here."""
    (tmp_path / "models--org--here" / "snapshots").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "piped", "means"),
    [
        (("tiny", "Once"), False, ("tiny", "Once")),
        (("org/far", "-"), False, ("org/far", "-")),
        (("Once upon a time",), False, ("tiny", "Once upon a time")),
        (("Once",), True, ("tiny", "Once")),
        (("-",), True, ("tiny", "-")),
        ((), True, ("tiny", "-")),
        (("tiny",), True, ("tiny", "-")),
        (("org/here",), True, ("org/here", "-")),
        (("read and/or write",), False, ("tiny", "read and/or write")),
        (("~nobody is home",), False, ("tiny", "~nobody is home")),
        (("a/b" * 3000,), False, ("tiny", "a/b" * 3000)),
        (("src",), False, ("tiny", "src")),
    ],
)
def test_arguments_mean(
    words: tuple[str, ...], piped: bool, means: tuple[str, str], cache: Path
) -> None:
    assert split(words, cache, piped=piped) == means


def test_a_folder_is_a_model_when_it_has_a_config(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    assert split((str(tmp_path),), tmp_path, piped=True) == (str(tmp_path), "-")


@pytest.mark.parametrize(
    ("words", "piped", "says"),
    [
        ((), False, "there is no prompt"),
        (("tiny",), False, "there is no prompt"),
        (("tiny", "Once", "upon"), False, "in quotes"),
        (("org/far",), True, "could be a model that is not downloaded"),
    ],
)
def test_arguments_that_mean_nothing_certain_are_refused(
    words: tuple[str, ...], piped: bool, says: str, cache: Path
) -> None:
    with pytest.raises(click.UsageError, match=says):
        split(words, cache, piped=piped)


def test_the_text_is_exact_and_statistics_are_apart(run: Run, model: Any) -> None:
    model.scripts = [[Text(" upon"), Text(" a\x1b[31m time"), Finish("stop", USAGE)]]
    done = run("generate", "tiny", "Once", "--seed", "7", "-n", "5", "--stop", "x", "--stop", "y")
    assert (done.exit_code, done.stdout) == (0, " upon a\x1b[31m time")
    assert done.stderr.startswith("4 tokens · 100.0 tok/s")
    params = model.asked[0]["params"]
    assert (params.seed, params.max_tokens, params.stop) == (7, 5, ("x", "y"))
    assert not params.ignore_eos


def test_statistics_tell_of_drafts_where_there_were_any(run: Run, model: Any) -> None:
    guessed = replace(USAGE, drafts=DraftCounts(20, 12))
    model.scripts = [[Text("a"), Finish("length", guessed)], [Text("a"), Finish("length", USAGE)]]
    tail = " · cut off at the token limit\n"
    cached = " · 0 of 10 prompt tokens cached"
    assert run("generate", "Once").stderr.endswith(f"{cached} · drafts 12 of 20{tail}")
    assert run("generate", "Once").stderr.endswith(f"{cached}{tail}")


def test_the_prompt_may_be_piped(run: Run, model: Any) -> None:
    assert run("generate", "-q", input="Once\nupon\n").stderr == ""
    assert run("generate", "tiny", "-", input="Once\nupon").exit_code == 0
    assert [asked["prompt"] for asked in model.asked] == ["Once\nupon", "Once\nupon"]


def test_json_is_one_document(run: Run, model: Any) -> None:
    model.scripts = [[Text(" upon"), Finish("length", USAGE)]]
    done = run("generate", "--json", "Once")
    document = json.loads(done.stdout)
    assert (done.stderr, document["prompt"], document["text"]) == ("", "Once", " upon")
    assert (document["finish_reason"], document["usage"]["completion_tokens"]) == ("length", 4)


def test_an_interrupt_keeps_what_came(run: Run, model: Any) -> None:
    model.scripts = [[Text(" upon"), KeyboardInterrupt()]]
    done = run("generate", "Once")
    assert (done.exit_code, done.stdout, model.aborted, model.closed) == (130, " upon", 1, True)
