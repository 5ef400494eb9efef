"""Daemons whose models say what a test has written, in processes of their own (see `scripted`)."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

import helexa
from helexa.engine.checkpoint.files import TokenizerFiles
from helexa.neuron.config import EngineSection, NeuronConfig, SourceConfig
from helexa.neuron.discovery import Sampler
from helexa.neuron.ids import ModelSpec
from helexa.text.tokenizer import Tokenizer
from tests.neuron.daemons import HELLO, Daemon, running
from tests.neuron.scripted import BUILDER
from tests.waiting import wait_until

TINY_FOLDER = Path(helexa.__file__).parent / "builtin/tiny"
ROOT = Path(__file__).parents[2]
CHAT, TEXT, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
X = "play:o/x"


@dataclass(frozen=True)
class Cue:
    """Something that happens between two tokens; with a ``name`` once, whichever process it is.

    ``wait`` until the gate ``name`` is open; ``exit`` and ``hang`` of the process; ``device`` and
    ``memory`` end the engine, ``nan``, ``oom`` and ``shape`` the request.
    """

    kind: str
    name: str = ""


@dataclass(frozen=True)
class Troupe:
    """A folder of models that play, under the scheme ``play``."""

    folder: Path
    seeds: Iterator[int] = field(default_factory=lambda: itertools.count(1000))
    tokenizer: Tokenizer = field(default_factory=lambda: tokenizer())

    def model(self, name: str, **facts: Any) -> Path:
        """The folder of a model with tiny's text layer, made if need be; ``facts`` are its core's.

        Its weights are never read.
        """
        folder = self.folder / "o" / name
        if not folder.exists():
            for part in ("plays", "gates", "once"):
                (folder / part).mkdir(parents=True)
            for path in TINY_FOLDER.glob("*"):
                (folder / path.name).symlink_to(path)
            (folder / "facts.json").write_text(json.dumps(facts))
        return folder

    def play(self, *script: str | int | Cue, model: str = X, **told: Any) -> dict[str, Any]:
        """What to put into a request so that it is answered by a script of texts, ids and cues.

        ``told`` may have ``cached`` tokens and ``timing`` (prefill, decode, queue; in ms).
        """
        parts: list[int | str] = []
        for item in script:
            if isinstance(item, Cue):
                parts.append(f"{item.kind}:{item.name}")
            elif isinstance(item, str):
                parts += self.tokenizer.encode(item, add_special_tokens=False)
            else:
                parts.append(item)
        seed = next(self.seeds)
        path = self.of(model) / "plays" / f"{seed}.json"
        path.write_text(json.dumps({"script": parts, **told}))
        return {"model": model, "seed": seed}

    def of(self, model: str) -> Path:
        """The folder of a model by its id."""
        return self.folder / model.partition(":")[2]

    def open(self, gate: str, model: str = X) -> None:
        """Let those go on that wait for a gate."""
        (self.of(model) / "gates" / gate).touch()

    def builds(self, model: str = X) -> int:
        """In how many processes a model has been loaded so far."""
        path = self.of(model) / "builds"
        return len(path.read_text().split()) if path.exists() else 0


def tokenizer() -> Tokenizer:
    return Tokenizer.from_files(TokenizerFiles.of(TINY_FOLDER))


@contextmanager
def staged(
    troupe: Troupe,
    engine: EngineSection | None = None,
    models: tuple[str, ...] = (X,),
    environ: Mapping[str, str] | None = None,
    *,
    sampler: Sampler | None = None,
    drain_s: float = 5.0,
    **config: Any,
) -> Iterator[Daemon]:
    """A daemon with models that play, loaded; ``config`` are fields of the whole."""
    source = {"play": SourceConfig(path=str(troupe.folder))}
    engine = engine or EngineSection()
    engine = replace(engine, sources={**engine.sources, **source})
    specs = tuple(ModelSpec(model_id=id) for id in models)
    whole = NeuronConfig(port=0, default_models=specs, engine=engine, **config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        told: dict[str, Any] = {"sampler": sampler, "builder": BUILDER, "drain_s": drain_s}
        with running(whole, environ=environ, **told) as daemon:
            yield daemon


@dataclass(frozen=True)
class Said:
    """A chat answer, streamed or whole, in the same terms."""

    content: str
    reasoning: str | None
    calls: list[dict[str, Any]]
    reason: str | None
    usage: dict[str, Any]


def ask(
    daemon: Daemon, body: Mapping[str, Any], *, path: str = CHAT, request_id: str = ""
) -> httpx.Response:
    """Send a request on a connection of its own, with a prompt unless it has one."""
    prompts: dict[str, Any] = {CHAT: {"messages": HELLO}, TEXT: {"prompt": "Hi"}}
    asked = {**prompts.get(path, {"input": "Hi"}), **body}
    headers = {"x-request-id": request_id} if request_id else {}
    with httpx.Client(base_url=daemon.url, timeout=60) as http:
        return http.post(path, json=asked, headers=headers)


def chat(
    daemon: Daemon, *, stream: bool, headers: Mapping[str, str] | None = None, **body: Any
) -> Said:
    """Ask for a chat answer, which must be one."""
    asked = {"messages": HELLO, "stream": stream, **body}
    answer = daemon.http.post(CHAT, json=asked, headers=headers)
    assert answer.status_code == 200, answer.text
    return streamed(frames(answer)) if stream else whole(answer.json())


def whole(answer: dict[str, Any]) -> Said:
    (choice,) = answer["choices"]
    message = choice["message"]
    calls = message.get("tool_calls", [])
    reason, usage = choice["finish_reason"], answer["usage"]
    return Said(message["content"], message.get("reasoning_content"), calls, reason, usage)


def streamed(chunks: list[dict[str, Any]]) -> Said:
    """What the chunks of a stream that came to its end add up to."""
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    deltas = [choice["delta"] for choice in choices]
    calls = [call for delta in deltas for call in delta.get("tool_calls", [])]
    assert [call.pop("index") for call in calls] == list(range(len(calls)))
    (reason,) = [choice["finish_reason"] for choice in choices if choice["finish_reason"]]
    (usage,) = [chunk["usage"] for chunk in chunks if "usage" in chunk]
    content = "".join(delta.get("content", "") for delta in deltas)
    reasoning = "".join(delta.get("reasoning_content", "") for delta in deltas)
    return Said(content, reasoning or None, calls, reason, usage)


def frames(answer: httpx.Response) -> list[dict[str, Any]]:
    """The frames of a stream that has ended as it should."""
    *parts, last = data(answer.text)
    assert last == "[DONE]"
    return [json.loads(part) for part in parts]


def data(text: str) -> list[str]:
    """What the frames of a stream carry."""
    lines = text.splitlines()
    return [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]


def wait_for(daemon: Daemon, status: str, model: str = X) -> None:
    wait_until(lambda: daemon.status(model) == status, 60)
