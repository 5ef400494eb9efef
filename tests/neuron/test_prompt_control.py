"""Large requests do not hold up the others: the control routes answer meanwhile."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from helexa.neuron.config import EngineSection, NeuronConfig, SourceConfig
from tests.neuron import daemon_process
from tests.neuron.daemon_process import TINY
from tests.neuron.daemons import HELLO, Daemon, running, started, with_tiny
from tests.waiting import noting_pauses, wait_until

CONFIG = """
default_models = [{model_id = "builtin:helexa/tiny"}]
"""
MESSAGE = {"role": "user", "content": "Hello there, and good day to you."}
LARGE: dict[str, tuple[str, dict[str, Any], int]] = {
    "a text": ("/v1/completions", {"prompt": "word " * 200_000}, 400),
    "token ids": ("/v1/completions", {"prompt": [100] * 1_000_000}, 400),
    "many messages": ("/v1/chat/completions", {"messages": [MESSAGE] * 30_000}, 400),
    "to count": ("/tokenize", {"prompt": "word " * 200_000}, 200),
    "to spell": ("/detokenize", {"tokens": [100] * 1_000_000}, 400),
    "to load": ("/models/load", {"model_id": TINY, "odd": ["x"] * 2_000_000}, 400),
}


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Iterator[daemon_process.Daemon]:
    with daemon_process.started(tmp_path_factory.mktemp("daemon"), CONFIG) as running:
        yield running


@pytest.mark.parametrize("what", list(LARGE))
def test_n035_a_large_request_holds_up_nobody(at: daemon_process.Daemon, what: str) -> None:
    path, more, status = LARGE[what]
    body = json.dumps({"model": TINY, **more}).encode()
    headers = {"content-type": "application/json"}

    def ask() -> httpx.Response:
        return httpx.post(f"{at.url}{path}", content=body, headers=headers, timeout=100)

    slowest_s, answered = 0.0, 0
    with ThreadPoolExecutor(1) as pool, noting_pauses() as pauses:
        began = time.monotonic()
        asking = pool.submit(ask)
        while not asking.done():
            asked = time.monotonic()
            assert at.http.get("/health").status_code == 200
            slowest_s = max(slowest_s, time.monotonic() - asked)
            answered += 1
            time.sleep(0.01)  # the processor is for the large request, which ends the sooner
        took_s = time.monotonic() - began
    assert asking.result().status_code == status, asking.result().text[:300]
    # Beside other tests every turn of a thread may take long, which is not the large one's doing.
    assert answered >= 3 and slowest_s < max(0.3, took_s / 2) + pauses.longest_s


def test_more_ids_than_the_context_are_not_spelt_out(at: daemon_process.Daemon) -> None:
    longest = at.http.post("/tokenize", json={"model": TINY, "prompt": "x"}).json()["max_model_len"]
    answers = [
        at.http.post("/detokenize", json={"model": TINY, "tokens": [100] * count})
        for count in (longest, longest + 1)
    ]
    assert [answer.status_code for answer in answers] == [200, 400]
    told = answers[1].json()["error"]
    assert (told["code"], told["param"]) == ("invalid_value", "tokens")


@contextmanager
def slow_disk(folder: Path) -> Iterator[NeuronConfig]:
    """A source with one model, whose configuration cannot be read before the block ends."""
    model = folder / "org/name"
    model.mkdir(parents=True)
    (model / "model.safetensors").touch()
    os.mkfifo(model / "config.json")
    source = SourceConfig(path=str(folder))
    yield NeuronConfig(port=0, engine=EngineSection(sources={"disk": source}))


def test_n035_a_disk_that_hangs_holds_up_only_who_asks_for_it(tmp_path: Path) -> None:
    with (
        slow_disk(tmp_path) as config,
        started(config) as daemon,
        ThreadPoolExecutor(1) as pool,
    ):
        url = f"{daemon.url}/models/disk:org%2Fname/capabilities"
        asking = pool.submit(httpx.get, url, timeout=60)
        limiter = daemon.neuron.threads.looking
        wait_until(lambda: limiter.borrowed_tokens == 1)
        assert httpx.get(f"{daemon.url}/health", timeout=10).status_code == 200
        assert not asking.done()
        (tmp_path / "org/name/config.json").write_text('{"vision_config": {}}')
        assert asking.result().json() == {"capabilities": ["text", "vision"]}


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with running(with_tiny(seats=1, places=1)) as daemon:
        yield daemon


def test_who_counts_tokens_holds_up_nobody_who_wants_an_answer(daemon: Daemon) -> None:
    """More than there are threads in all count at once, and none comes to an end."""
    tokenizer, over = daemon.slot().model.tokenizer, threading.Event()
    real = tokenizer.encode

    def encode(text: str, add_special_tokens: bool = True) -> list[int]:
        if text == "stuck":
            over.wait(60)
        return real(text, add_special_tokens)

    tokenizer.encode = encode  # type: ignore[method-assign]  # a text that takes so long is long
    counting = daemon.neuron.threads.counting.statistics
    body = {"model": TINY, "prompt": "stuck"}
    try:
        with ExitStack() as clients:
            for n in range(41):
                clients.enter_context(daemon.asking("/tokenize", body, f"stuck-{n}"))
            wait_until(lambda: counting().tasks_waiting >= 39, 30)
            answer = daemon.post("/v1/chat/completions", model=TINY, messages=HELLO, max_tokens=2)
            assert answer.status_code == 200
            assert counting().borrowed_tokens == 2
    finally:
        over.set()
        tokenizer.encode = real  # type: ignore[method-assign]  # as it was


def test_tokens_are_spelt_out_only_for_those_who_ask(daemon: Daemon) -> None:
    tokenizer = daemon.slot().model.tokenizer
    real, decoded = tokenizer.decode, []

    def decode(ids: Any, skip_special_tokens: bool = True) -> str:
        decoded.append(ids)
        return real(ids, skip_special_tokens)

    tokenizer.decode = decode  # type: ignore[method-assign]  # to count what no answer shows
    try:
        plain = daemon.post("/tokenize", model=TINY, prompt="Hello there").json()
        assert "token_strs" not in plain
        assert decoded == []
        spelt = daemon.post("/tokenize", model=TINY, prompt="Hello there", return_token_strs=True)
        assert len(spelt.json()["token_strs"]) == plain["count"] == len(decoded)
    finally:
        tokenizer.decode = real  # type: ignore[method-assign]  # as it was
