"""A host that recovers, over hosts whose tokens and whose death are a test's to give."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from queue import Queue

from helexa.engine.core_loop import Deliver
from helexa.engine.outputs import (
    CacheReport,
    EngineFacts,
    EngineStatus,
    Request,
    StepOutput,
    Timing,
)
from helexa.engine.process.host import Loss, LossCause
from helexa.errors import EngineLost
from helexa.neuron.recovery import Policy, RecoveringHost, State
from tests.cores import FACTS
from tests.waiting import wait_until

QUICK = Policy(pauses=(0.0,))


class FakeHost:
    """A host whose tokens and whose death are the test's to give."""

    def __init__(
        self,
        on_loss: Callable[[Loss], None],
        fault: Exception | None = None,
        load: Callable[[], None] = lambda: None,
    ) -> None:
        self.loss: Loss | None = None
        self.open: dict[int, tuple[Request, Deliver]] = {}
        self.aborted: list[int] = []
        self.closed = False
        self.stays = False  # its process, whatever is done to it
        self._on_loss = on_loss
        self._fault = fault
        self._load = load
        self._ids = itertools.count(1000)

    def start(self) -> EngineFacts:
        self._load()
        if self._fault is not None:
            raise self._fault
        return FACTS

    def submit(self, request: Request, deliver: Deliver) -> int:
        if self.loss is not None:
            raise self.loss.error
        id = next(self._ids)
        self.open[id] = (request, deliver)
        return id

    def abort(self, request_id: int, *, completed: bool = False) -> None:
        self.aborted.append(request_id)
        self.open.pop(request_id, None)

    def status(self) -> EngineStatus:
        return EngineStatus(running=len(self.open))

    def close(self, timeout_s: float = 5.0) -> bool:
        self.closed = True
        return not self.stays

    def gone(self) -> bool:
        return not self.stays

    def kill(self) -> None:
        self.die()

    def give(self, *tokens: int, last: bool = False) -> None:
        """Every open request gets these tokens."""
        for id, (_, deliver) in list(self.open.items()):
            finish = "length" if last else None
            timing, cache = Timing(1.0, 2.0, 3.0), CacheReport(0, "new")
            deliver(StepOutput(id, tokens, finish_reason=finish, timing=timing, cache=cache))

    def die(self, cause: LossCause = "exit", *, reaped: bool = True) -> None:
        self.loss = Loss(cause, EngineLost("it died"), reaped)
        self.stays = not reaped
        for id, (_, deliver) in list(self.open.items()):
            deliver(StepOutput(id, error=self.loss.error))
        self._on_loss(self.loss)


class Stage:
    """A RecoveringHost over fake hosts; ``faults`` are what starting the next ones raises."""

    def __init__(self, policy: Policy = QUICK) -> None:
        self.hosts: list[FakeHost] = []
        self.faults: list[Exception | None] = []
        self.load_s = 0.0  # how long each start takes
        self.leaves = False  # whether the processes of hosts from now on stay
        self.changes: list[tuple[State, str]] = []
        self.now = 0.0
        self.host = RecoveringHost(
            self.make, policy, on_change=lambda *what: self.changes.append(what), clock=self.clock
        )

    def make(self, on_loss: Callable[[Loss], None]) -> FakeHost:
        fault = self.faults.pop(0) if self.faults else None
        self.hosts.append(FakeHost(on_loss, fault, self.load))
        self.hosts[-1].stays = self.leaves
        return self.hosts[-1]

    def load(self) -> None:
        self.now += self.load_s

    def clock(self) -> float:
        return self.now

    def recovered(self, lives: int) -> FakeHost:
        """The host of the life ``lives``, once it is there."""
        wait_until(lambda: len(self.hosts) == lives and self.host.state == "loaded")
        return self.hosts[-1]


def read(queue: Queue[StepOutput]) -> StepOutput:
    return queue.get(timeout=10)
