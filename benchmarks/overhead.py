"""What the engine itself costs per decode step, on a CPU: alone, and handing over to readers.

    python -m benchmarks.overhead                      # a minute
    python -m benchmarks.overhead --model FOLDER       # with a real vocabulary

The built-in model, or another, decodes so many streams, in the steady state: all prompts are
computed, none ends. Four figures are told.

"core": what ``EngineCore.step`` takes beside the model. Planning the step, laying out its batch,
sampling, and making the outputs are counted; the model (forward pass and output layer) is not. The
built-in model has 1024 tokens; sampling from 151936 reads 600 KB a row.

"with hand-over": the core in the thread host of ``helexa.LLM``, one task of an event loop reading
each stream from the mailbox that ``AsyncLLM`` uses. Counted is the wall time from the start of a
step to the start of the next, beside the model's in that step: all that "core" counts, putting the
outputs into the mailboxes, waking the loop, and whatever the engine's thread loses to the readers
that run meanwhile. What they take is not in it where they run while the model computes. Neither is
detokenising and parsing, which a reader does with what it has got. The model's own time stands
beside both, and "beyond the model alone" is the harsher figure, with what readers take from the
model: the wall time of a step that is read less the model's time in a core that is not.

"by futures": the same, but each reader awaits a future of asyncio, and one call of the loop sets
all of a step: the least that asyncio can do for so many readers of a thread.

"to a server": the same of a core in the process of its own that servers keep it in (`ProcessHost`):
its outputs are written to a socket, and the parent's event loop, which reads all streams, has an
interpreter of its own.

Both cores of this process have a thread of their own, one after the other, as the host's core has.
Two threads that have ever used the model would have OpenMP's helpers each, and GNU's spin less
between operators once there are more of them than processors: the second model would be slower,
readers or not.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import statistics
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Protocol
from unittest.mock import patch

import anyio

from benchmarks.readings import arguments, positive, publish, spread

if TYPE_CHECKING:
    from helexa.engine.core import EngineCore
    from helexa.engine.outputs import Request, StepOutput
    from helexa.engine.process.messages import Build

ROWS = (1, 8, 32)
WARM_UP_STEPS = 20
STEPS = 100
TINY = "tiny"
MODEL, NOTES = "model", "steps.json"
SPARE_STEPS = 20
"""In which prompts are computed, and streams that began early have ended."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Median milliseconds of a step: beside the model, and the model's own."""

    ms: float
    model_ms: float


def new_core(model: str, rows: int) -> EngineCore:
    """A model with room for so many; on the CPU whatever else there is.

    Of a GPU's work, what the host waits for while it samples would be counted.
    """
    from helexa.engine.build import build_core
    from helexa.engine.config import EngineConfig

    return build_core(model, EngineConfig(device="cpu", max_batch=rows))


def asked(seed: int) -> Request:
    """A request of 64 tokens that is long enough for all of the steps."""
    from helexa.engine.outputs import Request
    from helexa.engine.params import SamplingParams

    tokens = WARM_UP_STEPS + STEPS + SPARE_STEPS
    params = SamplingParams(
        max_tokens=tokens, temperature=0.7, top_k=20, seed=seed, ignore_eos=True
    )
    return Request(tuple(range(10 + seed, 74 + seed)), params)


def of_core(model: str, rows: int) -> Cost:
    """A core that is stepped in a thread of its own, its outputs dropped."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(steps_alone, model, rows).result()


def steps_alone(model: str, rows: int) -> Cost:
    core = new_core(model, rows)
    for seed in range(rows):
        core.submit(asked(seed))
    while core.status().running < rows or core.status().waiting:
        core.step()
    costs = []
    for index in range(WARM_UP_STEPS + STEPS):
        core.step()
        status = core.status()
        if index >= WARM_UP_STEPS:
            costs.append((status.overhead_ms, status.last_step_ms - status.overhead_ms))
    core.close()
    return Cost(*(statistics.median(column) for column in zip(*costs, strict=True)))


def overhead_per_step(rows: int) -> float:
    """Median milliseconds per decode step of the built-in model's core with so many sequences."""
    return of_core(TINY, rows).ms


@dataclass(slots=True)
class Steps:
    """When each step with all ``rows`` began, in seconds, and what the model took in it."""

    rows: int
    began_s: list[float] = field(default_factory=list)
    model_s: list[float] = field(default_factory=list)

    def cost(self) -> Cost:
        """The medians, without the first steps and the last, after which some may have ended."""
        began, model = self.began_s[WARM_UP_STEPS:], self.model_s[WARM_UP_STEPS:]
        apart = [after - before for before, after in itertools.pairwise(began)]
        beside = [wall - own for wall, own in zip(apart, model, strict=False)]
        return Cost(1e3 * statistics.median(beside), 1e3 * statistics.median(model))


class Watched:
    """A core that notes its steps, and when it is closed in a file, if there is one.

    Everything else is the core's own.
    """

    def __init__(self, core: EngineCore, steps: Steps, notes: Path | None = None) -> None:
        self._core = core
        self._steps = steps
        self._notes = notes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)

    def step(self) -> list[StepOutput]:
        began = time.perf_counter()
        outputs = self._core.step()
        if sum(bool(output.token_ids) for output in outputs) == self._steps.rows:
            self._steps.began_s.append(began)
            self._steps.model_s.append(self._core._execution.model_s)  # a status takes longer
        return outputs

    def close(self) -> None:
        self._core.close()
        if self._notes is not None:
            self._notes.write_text(json.dumps([self._steps.began_s, self._steps.model_s]))


class Mailbox(Protocol):
    """What the engine's thread leaves for one reader."""

    def put(self, item: StepOutput) -> None: ...
    def get(self) -> Awaitable[StepOutput]: ...


class Futures:
    """Mailboxes of plain asyncio, for a loop that outlives them and one thread that fills them."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.due: deque[tuple[FutureMailbox, StepOutput]] = deque()

    def ring(self) -> None:
        self.loop.call_soon_threadsafe(self.answer)

    def answer(self) -> None:
        while self.due:
            mailbox, item = self.due.popleft()
            mailbox.items.append(item)
            if not mailbox.arrived.done():
                mailbox.arrived.set_result(None)


class FutureMailbox:
    """One of them."""

    def __init__(self, shared: Futures) -> None:
        self._shared = shared
        self.items: deque[StepOutput] = deque()
        self.arrived = shared.loop.create_future()

    def put(self, item: StepOutput) -> None:
        self._shared.due.append((self, item))
        if len(self._shared.due) == 1:
            self._shared.ring()

    async def get(self) -> StepOutput:
        while not self.items:
            self.arrived = self._shared.loop.create_future()
            await self.arrived
        return self.items.popleft()


def engine_mailboxes() -> Callable[[], Mailbox]:
    """Those of `AsyncLLM`."""
    from helexa.streams import LoopMailbox

    return LoopMailbox


def future_mailboxes() -> Callable[[], Mailbox]:
    """The least that asyncio can do."""
    return partial(FutureMailbox, Futures())


def with_readers(model: str, rows: int, mailboxes: Callable[[], Callable[[], Mailbox]]) -> Cost:
    """A core in the SDK's host, each of its streams read by a task."""
    from helexa.engine.host import ThreadHost

    steps = Steps(rows)
    host = ThreadHost(lambda: Watched(new_core(model, rows), steps))
    host.start()
    try:
        anyio.run(read_all, host, rows, mailboxes)
    finally:
        host.close()
    return steps.cost()


def with_a_server(model: str, rows: int) -> Cost:
    """A core in a process of its own, each of its streams read by a task here."""
    from helexa.engine.config import EngineConfig
    from helexa.engine.process.children import Nursery
    from helexa.engine.process.host import ProcessHost
    from helexa.engine.process.messages import Build

    nursery = Nursery(warm=False, builder=f"{__spec__.name}:noted_core")
    with TemporaryDirectory() as folder:
        Path(folder, MODEL).write_text(model, "utf-8")
        order = Build(folder, EngineConfig(device="cpu", max_batch=rows))
        host = ProcessHost(order, nursery)
        paths = {"PYTHONPATH": os.pathsep.join(sys.path)}  # where the child finds this module
        try:
            with patch.dict(os.environ, paths):
                host.start()
            anyio.run(read_all, host, rows, engine_mailboxes)
        finally:
            host.close()
            nursery.close()
        began, took = json.loads((Path(folder) / NOTES).read_text())
    return Steps(rows, began, took).cost()


def noted_core(order: Build, report: Callable[[str, int, int | None], None]) -> Any:
    """For the child: a core whose steps are written into the order's folder when it is closed."""
    folder, rows = Path(order.model), order.config.max_batch
    core = new_core((folder / MODEL).read_text("utf-8"), rows)
    return Watched(core, Steps(rows), folder / NOTES)


async def read_all(host: Any, rows: int, mailboxes: Callable[[], Callable[[], Mailbox]]) -> None:
    """Ask for so many streams at once, and read all of them to the end."""
    new_mailbox = mailboxes()
    async with anyio.create_task_group() as group:
        for seed in range(rows):
            mailbox = new_mailbox()
            host.submit(asked(seed), mailbox.put)
            group.start_soon(read, mailbox)


async def read(mailbox: Mailbox) -> None:
    while not (await mailbox.get()).finished:
        pass


@dataclass(frozen=True, slots=True)
class Overhead:
    """Milliseconds per step of so many rows: the median of the rounds, the least, and all.

    ``handed_…``: with hand-over, ``futures_…``: by futures, ``served_…``: to a server.
    ``…model_rounds``: what the model took, in each round.
    ``beyond_rounds``: what a step that is read takes beyond the model of one that is not.
    """

    rows: int
    median_ms: float
    least_ms: float
    handed_median_ms: float
    handed_least_ms: float
    rounds: list[float]
    handed_rounds: list[float]
    model_rounds: list[float]
    handed_model_rounds: list[float]
    beyond_rounds: list[float]
    futures_median_ms: float
    futures_rounds: list[float]
    served_median_ms: float
    served_rounds: list[float]
    served_model_rounds: list[float]


def measure(model: str, rows: int, rounds: int) -> Overhead:
    """In turns, with a core of its own for each."""
    ways: tuple[Callable[[], Cost], ...] = (
        partial(of_core, model, rows),
        partial(with_readers, model, rows, engine_mailboxes),
        partial(with_readers, model, rows, future_mailboxes),
        partial(with_a_server, model, rows),
    )
    core, handed, futures, served = zip(
        *([way() for way in ways] for _ in range(rounds)), strict=True
    )
    alone, read = ([one.ms for one in costs] for costs in (core, handed))
    return Overhead(
        rows,
        statistics.median(alone),
        min(alone),
        statistics.median(read),
        min(read),
        alone,
        read,
        [one.model_ms for one in core],
        [one.model_ms for one in handed],
        [one.ms + one.model_ms - bare.model_ms for bare, one in zip(core, handed, strict=True)],
        statistics.median(one.ms for one in futures),
        [one.ms for one in futures],
        statistics.median(one.ms for one in served),
        [one.ms for one in served],
        [one.model_ms for one in served],
    )


def main() -> None:
    """Print a line for each number of rows."""
    parser = arguments(__doc__)
    parser.add_argument("--model", default=TINY, help="a folder or a name; default: the built-in")
    parser.add_argument("--rows", type=positive, nargs="+", default=list(ROWS))
    parser.add_argument("--rounds", type=positive, default=5)
    options = parser.parse_args()
    found = [measure(options.model, rows, options.rounds) for rows in options.rows]
    publish(
        options.json,
        {"model": Path(options.model).name, "rounds": options.rounds},
        found,
        {
            "streams": lambda o: f"{o.rows}",
            "core, ms a step": lambda o: spread(o.rounds, unit=""),
            "with hand-over": lambda o: spread(o.handed_rounds, unit=""),
            "by futures": lambda o: spread(o.futures_rounds, unit=""),
            "to a server": lambda o: spread(o.served_rounds, unit=""),
            "the model, ms": lambda o: spread(o.model_rounds, unit=""),
            "while read": lambda o: spread(o.handed_model_rounds, unit=""),
            "beyond the model alone": lambda o: spread(o.beyond_rounds, unit=""),
        },
    )


if __name__ == "__main__":
    main()
