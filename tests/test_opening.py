"""What is refused before a model is loaded, by the library and the commands that need answers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from helexa import LLM
from helexa.cli.main import cli
from helexa.engine.checkpoint.checkpoint import open_checkpoint
from helexa.engine.loading import load_model
from helexa.errors import CheckpointError, UnsupportedModel
from helexa.quantising import quantise_to_file
from tests.engine.checkpoint.conftest import FakeHub
from tests.neuron.hubs import TINY_FOLDER, hub_with_tiny

COMMANDS = (["chat", "org/name", "-m", "x"], ["generate", "org/name", "x"])


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub whose model has no tokenizer."""
    with hub_with_tiny() as fake:
        del fake.files["tokenizer.json"]
        monkeypatch.setenv("HF_ENDPOINT", fake.endpoint)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
        yield fake


def assert_no_weights_asked(hub: FakeHub) -> None:
    assert hub.requests
    assert not [request for request in hub.requests if "safetensors" in request[1]]


@pytest.mark.parametrize("host", ["thread", "process"])
def test_no_tokenizer_is_told_before_weights_are_fetched(hub: FakeHub, host: str) -> None:
    with pytest.raises(CheckpointError, match=r"'org/name' has no tokenizer\.json") as caught:
        LLM("org/name", device="cpu", host=host)
    assert "helexa pull" in caught.value.hint
    assert_no_weights_asked(hub)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: words[0])
def test_commands_that_need_a_tokenizer_say_so_first(hub: FakeHub, command: list[str]) -> None:
    done = CliRunner().invoke(cli, command, prog_name="helexa")
    assert done.exit_code == 1
    assert "has no tokenizer.json" in done.stderr
    assert "helexa pull" in done.stderr
    assert_no_weights_asked(hub)


def test_what_needs_no_tokenizer_is_fetched(hub: FakeHub, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["pull", "org/name"], prog_name="helexa")
    assert done.exit_code == 0
    assert hub.asked("model.safetensors")
    with closing(open_checkpoint("org/name")) as checkpoint:
        assert load_model(checkpoint).compute_logits([1]).shape[0] == 1
    folder = Path(done.stdout.strip())
    shutil.copy(TINY_FOLDER / "tokenizer.json", folder)  # as the error says
    with LLM("org/name", device="cpu") as llm:
        assert llm.generate("Once", max_tokens=1).token_ids


@pytest.mark.parametrize("host", ["thread", "process"])
def test_weights_that_are_quantised_already_are_called_by_name(tmp_path: Path, host: str) -> None:
    quantise_to_file("tiny", tmp_path / "q", "q8_0")
    with pytest.raises(UnsupportedModel, match="quantised already"):
        LLM(tmp_path / "q", device="cpu", quant="q4_k", host=host)
