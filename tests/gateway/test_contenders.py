"""Who takes part in the benchmark: what cannot run is named, and what runs is as usual."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmarks.gateway_contenders import CONTENDERS, Contender, DidNotStart, Place, running

LISTENS = """
import json, os, socket, sys, time
json.dump(dict(os.environ), open(sys.argv[2], "w"))
with socket.create_server(("127.0.0.1", int(sys.argv[1]))):
    time.sleep(60)
"""


def scripted(text: str, environment: Mapping[str, str] | None = None) -> Contender:
    def command(place: Place) -> list[str]:
        return [sys.executable, "-c", text, str(place.port), str(place.folder / "environ.json")]

    return Contender("scripted", command, environment=environment or {})


def test_where_the_peers_python_is_missing_they_are_left_out(tmp_path: Path) -> None:
    python = str(tmp_path / "python")
    absent = {contender.name: contender.absent(python) for contender in CONTENDERS}
    assert absent["helexa gateway"] == absent["helexa.http"] == ""
    assert absent["Starlette"] == f"there is no {python}"
    assert absent["LiteLLM"] == f"there is no {tmp_path / 'litellm'}"
    assert [contender.name for contender in CONTENDERS if not contender.peer] == [
        *("helexa gateway", "helexa.http")
    ]


def test_one_that_lacks_a_module_is_told_by_its_last_words(tmp_path: Path) -> None:
    with (
        pytest.raises(DidNotStart, match=r"listen: ModuleNotFoundError: .*no_such.$"),
        running(scripted("import no_such"), "", tmp_path, sys.executable, None),
    ):
        pytest.fail("it does not listen")


def test_one_that_says_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(DidNotStart, match="it said nothing"),
        running(scripted("raise SystemExit(1)"), "", tmp_path, sys.executable, None),
    ):
        pytest.fail("it does not listen")


def test_they_may_keep_their_bytecode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each start compiles anew, which is not how anybody starts them."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    contender = scripted(LISTENS, {"OF_ITS_OWN": "x"})
    with running(contender, "", tmp_path, sys.executable, None) as started:
        assert started.listening_s > 0
        environ = json.loads((tmp_path / "environ.json").read_text())
    assert "PYTHONDONTWRITEBYTECODE" not in environ
    assert (environ["OF_ITS_OWN"], environ["PATH"]) == ("x", os.environ["PATH"])
