"""`helexa serve` with options about its model: as `generate` has them, and by the environment."""

from __future__ import annotations

import re
import signal
import socket
from pathlib import Path
from typing import Any

import click
import httpx
import pytest

from helexa.cli import daemon_options
from helexa.cli.model_options import LoadOptions
from helexa.errors import InvalidRequest
from helexa.neuron.config import EngineSection
from helexa.neuron.discovery import Hardware, Sample
from helexa.neuron.ids import ModelSpec
from helexa.neuron.machine import read_machine, sample_host
from helexa.neuron.nvml import Cards
from tests.cli.test_serve import NO_HUB, TIMEOUT_S, Told, started, told

REPEAT = "Repeat exactly: red green blue red green blue red green blue"
ASKED: Any = {"messages": [{"role": "user", "content": REPEAT}], "ignore_eos": True}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as picked:
        port: int = picked.getsockname()[1]
        return port


def drafts_of(server: Told) -> list[dict[str, int]]:
    """What each surface says of guessed tokens in an answer that repeats itself."""
    chat = server.post("/v1/chat/completions", max_tokens=80, **ASKED).json()
    message = server.post("/v1/messages", max_tokens=80, **ASKED).json()
    response = server.post("/v1/responses", max_output_tokens=80, input=REPEAT, **ASKED).json()
    return [told["usage"].get("helexa_drafts") for told in (chat, message, response)]


def test_options_reach_the_model(tmp_path: Path) -> None:
    port = free_port()
    options = {
        "--drafter": "lookup",
        "--quant": "q8_0",
        "--device": "cpu",
        "--dtype": "float32",
        "--max-context": "256",
        "--kv-memory-mb": "16",
        "--neuron-port": str(port),
    }
    words = [word for option in options.items() for word in option]
    with started("serve", "tiny", "-p", "0", *words) as process:
        server = told(process)
        for counts in drafts_of(server):
            assert 0 < counts["accepted"] <= counts["drafted"]
        (model,) = httpx.get(f"http://127.0.0.1:{port}/models", timeout=TIMEOUT_S).json()
        assert (model["spec"]["quant"], model["spec"]["kv_mb"]) == ("q8_0", 16)
        assert model["limit"]["context"] == 256
        counted = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=TIMEOUT_S).text
        found = re.search(r"neuron_draft_tokens_total\{\S+\} (\S+)", counted)
        assert found and float(found[1]) > 0
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT_S) == 0


def test_a_variable_of_the_engine_reaches_the_model() -> None:
    """One of the daemon's own address does not: that is said by options alone."""
    environ = {"NEURON_ENGINE__DRAFTER": "lookup", "NEURON_PORT": "no port"}
    with started("serve", "-p", "0", **environ) as process:
        assert all(drafts_of(told(process)))


def test_a_compiler_is_asked_for(tmp_path: Path) -> None:
    """Without one the load ends, which shows that the model was to be compiled."""
    environ = {"PATH": str(tmp_path), "CXX": str(tmp_path / "none")}
    with started("serve", "-p", "0", "--compile", **environ) as process:
        out, errors = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, out) == (1, "")
    assert "`compile` needs a C++ compiler, and CXX names one that does not run" in errors
    assert "hint: name another, or unset CXX" in errors


@pytest.mark.parametrize(
    ("words", "environ", "status", "says"),
    [
        (("--drafter", "big"), {}, 2, "Invalid value for '--drafter': drafter must be one of"),
        (("--dtype", "int3"), {}, 2, "Invalid value for '--dtype': dtype must be one of"),
        (("--device", "mps"), {}, 2, "Invalid value for '--device'"),
        (("--max-context", "1"), {}, 2, "Invalid value for '--max-context'"),
        (("--quant", "q9"), {}, 1, "cannot be had as 'q9'"),
        (
            (),
            {"NEURON_ENGINE__DRAFTER": "big"},
            2,
            "failed to load config from 'the environment': NEURON_ENGINE__DRAFTER: expected",
        ),
    ],
    ids=["drafter", "dtype", "device", "context", "quant", "variable"],
)
def test_what_cannot_be_is_named(
    words: tuple[str, ...], environ: dict[str, str], status: int, says: str
) -> None:
    with started("serve", "-p", "0", *words, **NO_HUB, **environ) as process:
        out, errors = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, out) == (status, "")
    assert says in errors
    assert "Traceback" not in errors


def test_offline_asks_no_hub(tmp_path: Path) -> None:
    options = ("--offline", "--cache-dir", str(tmp_path / "cache"))
    with started("serve", "org/model", "-p", "0", *options, **NO_HUB) as process:
        _, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 1
    assert f"offline; no copy of it is in {tmp_path / 'cache'}\n" in errors


def test_the_command_line_is_stronger_than_the_environment() -> None:
    environ = {
        "NEURON_ENGINE__COMPILE": "true",
        "NEURON_HARNESS__CANDLE__DTYPE": "float16",
        "NEURON_ENGINE__DRAFT_LEN": "7",
        "NEURON_MAX_PROMPT_TOKENS": "9",
    }
    silent = daemon_options.engine_section(LoadOptions(), environ)
    assert silent == EngineSection(compile=True, dtype="float16", draft_len=7)
    load = LoadOptions(
        dtype="float32", drafter="lookup", cache_dir=Path("/c"), offline=True, max_context=99
    )
    said = daemon_options.engine_section(load, environ)
    assert (said.compile, said.dtype, said.drafter) == (True, "float32", "lookup")
    assert (said.draft_len, said.hf_cache) == (7, "/c")
    assert daemon_options.surroundings(LoadOptions(), environ) == environ
    told = daemon_options.surroundings(load, environ)
    assert (told["HF_HUB_OFFLINE"], told["NEURON_MAX_PROMPT_TOKENS"]) == ("1", "99")


def test_what_the_daemon_is_asked_to_load() -> None:
    def spec(**said: Any) -> ModelSpec:
        return daemon_options.model_spec("o/n", LoadOptions(**said))

    assert spec() == ModelSpec(model_id="o/n")
    assert [spec(device=name).devices for name in ("cpu", "cuda", "cuda:3")] == [None, (0,), (3,)]
    asked = spec(quant="q4_k", revision="r", kv_memory_mb=5)
    assert asked == ModelSpec(model_id="o/n", quant="q4_k", revision="r", kv_mb=5)


def test_a_card_that_is_not_there_is_missed() -> None:
    """With a driver that does not answer, or does not work, the load itself says so."""
    wanted = ModelSpec(model_id="o/n", devices=(0,))

    def require(spec: ModelSpec, cards: Cards) -> None:
        hardware = Hardware(read_machine(), Sample(cards, sample_host(None)))
        daemon_options.require_card(spec, hardware)

    with pytest.raises(InvalidRequest, match="no GPU"):
        require(wanted, Cards())
    for cards in (Cards(known=False), Cards(unavailable="mismatch")):
        require(wanted, cards)
    require(ModelSpec(model_id="o/n"), Cards())
    assert daemon_options.sampler(LoadOptions()) is None
    assert daemon_options.sampler(LoadOptions(device="cpu")) is not None


def test_options_are_checked_before_anything_is_started() -> None:
    for wrong in ({"device": "tpu"}, {"kv_memory_mb": 0}, {"drafter": ""}):
        with pytest.raises(click.BadParameter):
            daemon_options.check(LoadOptions(**wrong))  # type: ignore[arg-type]  # any field
    daemon_options.check(LoadOptions(device="cuda:1", drafter="lookup", max_context=2))
