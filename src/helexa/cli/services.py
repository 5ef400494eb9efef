"""What commands reach outside themselves for, in one value that a test can replace."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, Self

import click

from helexa.cli.stdin import stdin_is_terminal

if TYPE_CHECKING:
    from pathlib import Path

    from helexa.cli.model_options import LoadOptions
    from helexa.engine.hardware import Gpu, HostMemory
    from helexa.engine.params import SamplingParams
    from helexa.text.events import Event

Progress = Callable[[str, int, int | None], None]
"""Called with a file's name, bytes done, and bytes in all where they are known."""


class ChatModel(Protocol):
    """What a command needs of a loaded model; ``helexa.LLM`` is one.

    Closing an iterator of events before its end aborts that request.
    """

    @property
    def info(self) -> Any: ...

    @property
    def status(self) -> Any: ...

    def stream(self, prompt: str, params: SamplingParams | None = None) -> Iterator[Event]: ...

    def stream_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        params: SamplingParams | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        enable_thinking: bool | None = None,
    ) -> Iterator[Event]: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


Fetch = Callable[[str, str, "Path | None", Progress | None], "tuple[str, Path]"]
Load = Callable[[str, "LoadOptions", Progress | None], ChatModel]


def load_model(model: str, options: LoadOptions, progress: Progress | None) -> ChatModel:
    """Load a model with the library. Torch is imported here and nowhere else in the CLI."""
    from helexa.llm import LLM

    llm: ChatModel = LLM(model, progress=progress, **options.arguments())
    return llm


def fetch(
    model: str, revision: str, cache_dir: Path | None, progress: Progress | None
) -> tuple[str, Path]:
    """The name of a model, and its folder or GGUF file, after everything missing was downloaded."""
    from helexa.engine.checkpoint.resolve import resolve_model

    found = resolve_model(model, revision=revision, cache_dir=cache_dir, progress=progress)
    return found.name, found.path


def host_memory() -> HostMemory:
    """The memory of this machine."""
    from helexa.engine import hardware

    return hardware.host_memory()


def gpus() -> tuple[Gpu, ...]:
    """The GPUs of this machine."""
    from helexa.engine import hardware

    return hardware.gpus()


def read_line(prompt: str) -> str:
    """One typed line, with editing and history where Python has readline."""
    with suppress(ImportError):
        import_module("readline")  # changes input()
    return input(prompt)


@dataclass(frozen=True, slots=True)
class Services:
    """The world as the commands see it."""

    load: Load = load_model
    fetch: Fetch = fetch
    host_memory: Callable[[], HostMemory] = host_memory
    gpus: Callable[[], tuple[Gpu, ...]] = gpus
    read_line: Callable[[str], str] = read_line
    interactive: Callable[[], bool] = stdin_is_terminal
    clock: Callable[[], float] = time.perf_counter


def services(ctx: click.Context) -> Services:
    """Those given through click's ``obj``, else the real ones."""
    given = ctx.find_object(Services)
    return given if given is not None else Services()


@contextmanager
def opened(world: Services, model: str, options: LoadOptions) -> Iterator[ChatModel]:
    """A loaded model for as long as the block runs; a terminal sees what the loading does."""
    from helexa.cli.model_options import usage_errors
    from helexa.cli.progress import load_progress

    with load_progress(sys.stderr) as progress, usage_errors():
        llm = world.load(model, options, progress)
    with llm:
        yield llm
