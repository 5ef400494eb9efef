"""A core that says what a script tells it: the child's half of `plays`. No model, no torch.

In the folder of its "model" lie the scripts, one per seed, as `plays` writes them; `once` notes
there which cues have been acted on, so that an answer goes on in the next process.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from helexa.engine.core_loop import Core
from helexa.engine.outputs import (
    CacheReport,
    EngineFacts,
    EngineStatus,
    FinishReason,
    Request,
    StepOutput,
    Timing,
)
from helexa.engine.process.messages import Build
from helexa.engine.process.worker import Report
from helexa.errors import DeviceError, HelexaError, LoadError, NumericalError, OutOfMemory

BUILDER = "tests.neuron.scripted:build"
END_TOKENS = (1015, 1017)
FACTS = EngineFacts("cpu", "float32", 1, 0.0, 1024, 32768, 4096, END_TOKENS)
ENDLESS = 2000  # rounds: more tokens than any context here

ERRORS: dict[str, HelexaError] = {
    "nan": NumericalError("the logits of this request are not finite"),
    "oom": OutOfMemory("no room", required_mb=10, free_mb=3),
    "shape": HelexaError("the shapes do not fit"),
}
DEVICE_ERRORS = {
    "device": DeviceError("the card fell off the bus"),
    "memory": DeviceError("the card is full", out_of_memory=True),
}


@dataclass
class Role:
    """One request and what is left of its script: token ids, and cues as ``kind:name``."""

    rest: list[int | str]
    said: int
    limit: int
    cache: CacheReport | None
    timing: Timing

    @property
    def reason(self) -> FinishReason | None:
        if self.said >= self.limit:
            return "length"
        return None if self.rest else "stop"


class ScriptedCore:
    """Every open request says one token per step, unless its script has it wait or fail."""

    def __init__(self, folder: Path) -> None:
        self.facts = facts_of(folder)
        self._folder = folder
        self._roles: dict[int, Role] = {}
        self._next = 0

    @property
    def idle(self) -> bool:
        return not self._roles

    def submit(self, request: Request) -> int:
        default = {"script": [70, 71, 72] * ENDLESS}
        play = read(self._folder / "plays" / f"{request.params.seed}.json", default)
        done, cached = len(request.generated), play.get("cached")
        cache = None if cached is None else CacheReport(cached, "hit" if cached else "new")
        timing = Timing(*play.get("timing", (1.0, 2.0, 0.0)))
        rest = after(play["script"], done)
        self._next += 1
        self._roles[self._next] = Role(rest, done, request.params.max_tokens, cache, timing)
        return self._next

    def abort(self, request_id: int, *, completed: bool = False) -> None:
        self._roles.pop(request_id, None)

    def step(self) -> list[StepOutput]:
        outputs = [output for id in list(self._roles) if (output := self._act(id)) is not None]
        for output in outputs:
            if output.finished:
                del self._roles[output.id]
        time.sleep(0.001)
        return outputs

    def _act(self, id: int) -> StepOutput | None:
        """What a request says now; None if it waits. Raises what ends the core."""
        role = self._roles[id]
        while role.rest and isinstance(cue := role.rest[0], str):
            kind, _, name = cue.partition(":")
            if kind == "wait":
                if not (self._folder / "gates" / name).exists():
                    return None
            elif error := self._misfortune(kind, name):
                return StepOutput(id, error=error)
            role.rest.pop(0)
        if role.reason is not None:
            return StepOutput(id, finish_reason=role.reason, timing=role.timing)
        token = role.rest.pop(0)
        assert isinstance(token, int)
        role.said += 1
        cache, role.cache = role.cache, None
        told: dict[str, Any] = {"cache": cache, "timing": role.timing}
        return StepOutput(
            id, (token,), finish_reason=role.reason, completion_tokens=role.said, **told
        )

    def _misfortune(self, kind: str, name: str) -> HelexaError | None:
        """Let happen what a cue says; one with a name happens once, whoever the process is."""
        if name:
            try:
                (self._folder / "once" / name).touch(exist_ok=False)
            except FileExistsError:
                return None
        if kind == "exit":
            os._exit(3)
        if kind == "hang":
            time.sleep(600)
        if kind in DEVICE_ERRORS:
            raise DEVICE_ERRORS[kind]
        return ERRORS[kind]

    def status(self) -> EngineStatus:
        return EngineStatus(running=len(self._roles))

    def close(self) -> None:
        pass


def facts_of(folder: Path) -> EngineFacts:
    """The facts of a model, all of whose cache may be promised to requests."""
    facts = replace(FACTS, **read(folder / "facts.json", {}))
    budget_mb = facts.kv_capacity_tokens * facts.kv_bytes_per_token // 2**20
    promised = {"kv_budget_mb": budget_mb, "pool_mb": float(budget_mb)}
    return replace(facts, **{name: mb for name, mb in promised.items() if hasattr(facts, name)})


def after(script: list[int | str], tokens: int) -> list[int | str]:
    """A script without its first tokens and the cues among them."""
    place = 0
    while tokens:
        tokens -= isinstance(script[place], int)
        place += 1
    return script[place:]


def read(path: Path, default: Any) -> Any:
    return json.loads(path.read_text()) if path.exists() else default


def build(order: Build, report: Report) -> Core:
    """What a worker calls; files in the folder keep the model from loading.

    While ``slow`` is there it takes its time; with ``broken`` it fails, ``once`` if it says so.
    """
    folder = Path(order.model)
    broken, slow = folder / "broken", folder / "slow"
    fails = broken.exists()
    if fails and broken.read_text() == "once":
        broken.unlink()
    with (folder / "builds").open("a") as file:
        file.write(f"{os.getpid()}\n")
    while slow.exists():
        time.sleep(0.01)
    report("weights", 1, 1)
    if fails:
        raise LoadError("the weights are unreadable today")
    return ScriptedCore(folder)
