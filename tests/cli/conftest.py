"""A model that answers at once and the click runner that uses it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from helexa.cli.main import cli
from helexa.cli.services import Services
from helexa.engine.params import SamplingParams
from helexa.text.events import Event, Finish, Reasoning, Text, Usage

USAGE = Usage(
    prompt_tokens=10,
    completion_tokens=4,
    reasoning_tokens=1,
    cached_tokens=8,
    prefill_ms=5.0,
    decode_ms=30.0,
    prefill_tokens=10,
)
INFO = {"max_context": 2048, "parameters": 4_100_000, "dtype": "float32", "device": "cpu"}


@dataclass
class FakeModel:
    """Answers each request with the next script of events; notes what it was asked and aborted.

    A script may hold exceptions, which are raised where they stand.
    """

    scripts: list[Sequence[Event | BaseException]] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    aborted: int = 0
    closed: bool = False
    info: Any = field(default_factory=lambda: SimpleNamespace(**INFO))
    status: Any = None

    def stream(self, prompt: str, params: SamplingParams | None = None) -> Iterator[Event]:
        self.asked.append({"prompt": prompt, "params": params})
        return self._play()

    def stream_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        params: SamplingParams | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        enable_thinking: bool | None = None,
    ) -> Iterator[Event]:
        self.asked.append(
            {"messages": list(messages), "params": params, "tools": tools, "think": enable_thinking}
        )
        return self._play()

    def _play(self) -> Iterator[Event]:
        script = self.scripts.pop(0) if self.scripts else [Text("hello"), Finish("stop", USAGE)]
        finished = False
        try:
            for step in script:
                if isinstance(step, BaseException):
                    raise step
                finished = isinstance(step, Finish)
                yield step
        finally:
            self.aborted += not finished

    def __enter__(self) -> FakeModel:
        return self

    def __exit__(self, *exc: object) -> None:
        self.closed = True


@pytest.fixture
def model() -> FakeModel:
    return FakeModel()


Run = Callable[..., Result]


@pytest.fixture
def run(model: FakeModel) -> Run:
    """Run a command line; ``typed`` lines make it interactive, exceptions among them are raised."""

    def go(*args: str, typed: Sequence[str | BaseException] | None = None, **kw: Any) -> Result:
        lines = iter(typed or ())

        def read_line(_prompt: str) -> str:
            line = next(lines, EOFError())
            if isinstance(line, BaseException):
                raise line
            return line

        world = Services(
            load=lambda _model, _options, _progress: model,
            read_line=read_line,
            interactive=lambda: typed is not None,
        )
        return CliRunner().invoke(cli, list(args), prog_name="helexa", obj=world, **kw)

    return go


@pytest.fixture
def thinking() -> Sequence[Event]:
    return [Reasoning("hmm "), Reasoning("so"), Text("four"), Finish("stop", USAGE)]
