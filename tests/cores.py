"""A core without a model, steered through files, so that it may live in another process."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from helexa.engine.config import EngineConfig
from helexa.engine.core_loop import Core
from helexa.engine.outputs import EngineFacts, EngineStatus, Request, StepOutput
from helexa.engine.params import SamplingParams
from helexa.engine.process.messages import Build
from helexa.engine.process.worker import Report
from helexa.errors import (
    DeviceError,
    InvalidRequest,
    NumericalError,
    OutOfMemory,
    UnsupportedGrammar,
)
from tests.waiting import wait_until

FACTS = EngineFacts("cpu", "float32", 1, 0.0, 64, 1024, 1024)
REQUEST = Request((1, 2, 3), SamplingParams(max_tokens=3))
LONG = Request((1,), SamplingParams(max_tokens=10**6))
BUILDER = "tests.cores:build"


@dataclass(frozen=True)
class Controls:
    """The files in a folder that steer a `CountingCore` and tell what it does."""

    folder: Path

    @property
    def order(self) -> Build:
        return Build(str(self.folder), EngineConfig())

    def hold(self) -> None:
        """No step ends from now on."""
        (self.folder / "hold").touch()

    def release(self) -> None:
        (self.folder / "hold").unlink()

    def fail(self, how: str) -> None:
        """The next step, or building (``build``, ``slow``), goes wrong."""
        (self.folder / "fault").write_text(how)

    def hold_preparing(self) -> None:
        """No request with a grammar is ready for the core from now on."""
        (self.folder / "hold_preparing").touch()

    def release_preparing(self) -> None:
        (self.folder / "hold_preparing").unlink()

    def wait_for_preparing(self) -> None:
        wait_until((self.folder / "preparing").exists, 20)

    def wait_for_a_step(self) -> None:
        wait_until((self.folder / "in_step").exists, 20)

    @property
    def aborted(self) -> list[int]:
        path = self.folder / "aborted"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    @property
    def closed(self) -> bool:
        return (self.folder / "closed").exists()


class Panic(BaseException):
    """As libraries in Rust raise, which is no Exception."""


class CountingCore:
    """Gives each request the tokens 0, 1, 2, …; a 99 or 96 in a prompt makes reading it fail.

    98 ends a request with NaN logits, 97 with a lack of memory: errors that are its own.
    """

    def __init__(self, folder: Path) -> None:
        self.facts = FACTS
        self._folder = folder
        self._counts: dict[int, tuple[int, int]] = {}
        self._refused: list[StepOutput] = []
        self._next = 100  # core ids differ from host ids on purpose

    @property
    def idle(self) -> bool:
        return not self._counts and not self._refused

    def prepare(self, request: Request) -> None:
        assert request.grammar is not None
        (self._folder / "preparing").touch()
        while (self._folder / "hold_preparing").exists():
            time.sleep(0.002)
        if request.grammar.text == "unheard of":
            raise UnsupportedGrammar("nobody can write that", param="response_format")

    def submit(self, request: Request) -> int:
        if 99 in request.token_ids:
            raise ZeroDivisionError("nobody thought of that")
        if 96 in request.token_ids:
            raise Panic("index out of bounds")
        if not request.token_ids:
            raise InvalidRequest("the prompt is empty", code="empty_prompt")
        self._next += 1
        if 98 in request.token_ids:
            self._refused.append(StepOutput(self._next, error=NumericalError("nan 3")))
        elif 97 in request.token_ids:
            error = OutOfMemory("no room", required_mb=10, free_mb=1)
            self._refused.append(StepOutput(self._next, error=error))
        else:
            self._counts[self._next] = (len(request.generated), request.params.max_tokens)
        return self._next

    def abort(self, request_id: int, *, completed: bool = False) -> None:
        with (self._folder / "aborted").open("a") as file:
            file.write(f"{request_id}\n")
        self._counts.pop(request_id, None)

    def step(self) -> list[StepOutput]:
        (self._folder / "in_step").touch()
        while (self._folder / "hold").exists():
            time.sleep(0.002)
        match (self._folder / "fault").read_text() if (self._folder / "fault").exists() else "":
            case "device":
                raise DeviceError("the card fell off the bus")
            case "memory":
                raise DeviceError("the card is full", out_of_memory=True)
            case "noise":
                sys.stdout.write("\x1enoise from a library, Authorization: Bearer abcdef\n")
                sys.stdout.flush()
                sys.stderr.write("half a line ")
                raise RuntimeError("with the token hf_abcdefgh1234")
            case "bug":
                raise RuntimeError("bug")
            case "panic":
                raise Panic("index out of bounds")
            case "exit":
                os._exit(3)
        outputs, self._refused = self._refused, []
        for id, (count, limit) in list(self._counts.items()):
            last = count + 1 >= limit
            outputs.append(StepOutput(id, (count,), finish_reason="length" if last else None))
            if last:
                del self._counts[id]
            else:
                self._counts[id] = (count + 1, limit)
        time.sleep(0.001)
        return outputs

    def status(self) -> EngineStatus:
        return EngineStatus(running=len(self._counts))

    def close(self) -> None:
        (self._folder / "closed").touch()


def build(order: Build, report: Report) -> Core:
    """What a worker calls to build a `CountingCore`."""
    folder = Path(order.model)
    report("weights", 1, 2)
    fault = (folder / "fault").read_text() if (folder / "fault").exists() else ""
    if fault == "build":
        raise InvalidRequest("no such device", param="device")
    if fault == "die":
        os._exit(5)
    if fault == "slow":
        time.sleep(60)
    report("weights", 2, 2)
    return CountingCore(folder)
