"""A host that outlives its child: it loads the model again and goes on with what was running."""

from __future__ import annotations

import itertools
import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final, Literal, Protocol

from helexa.engine.core_loop import ConsumerGone, Deliver, hand_to
from helexa.engine.host import Host
from helexa.engine.outputs import EngineFacts, EngineStatus, Request, StepOutput, Timing
from helexa.engine.params import SEED_BITS
from helexa.engine.process.host import Loss
from helexa.errors import DeviceError, EngineClosed, EngineLost, HelexaError

State = Literal["loading", "loaded", "recovering", "poisoned", "closed"]
OF_THE_HOST: Final = (DeviceError, EngineLost)
"""What ends every request of a host at once; any other error is its request's own."""
UNKILLED: Final = "the model's process cannot be killed"

log = logging.getLogger(__name__)


class MortalHost(Host, Protocol):
    """A host that may lose its child."""

    @property
    def loss(self) -> Loss | None: ...
    def gone(self) -> bool: ...
    def kill(self) -> None: ...


MakeHost = Callable[[Callable[[Loss], None]], MortalHost]


@dataclass(frozen=True, slots=True)
class Policy:
    """When to try again and when to stop trying; times in seconds.

    ``pauses`` come before the second, third, … try of ``attempts``, the last one again and again.
    ``resume_wait`` is how long an interrupted request waits for its model; 0: it does not.
    ``storm`` losses within ``storm_window``, and no request completed in between, are enough.
    A poisoned model is tried again on request, ``retry_after`` the end of the last try.
    """

    attempts: int = 3
    pauses: tuple[float, ...] = (1.0, 10.0, 60.0)
    resume_wait: float = 120.0
    storm: int = 3
    storm_window: float = 600.0
    retry_after: float = 60.0


@dataclass(slots=True, eq=False)
class Record:
    """A request with all it takes to go on with it elsewhere.

    ``generated`` are the tokens its reader has; ``running_as`` is its id at the present host, None
    while it waits for one; ``losses`` counts the children that died under it.
    """

    id: int
    request: Request
    deliver: Deliver
    generated: list[int] = field(default_factory=list)
    running_as: int | None = None
    losses: int = 0
    cache_told: bool = False
    first_token_s: float | None = None
    first_timing: Timing | None = None

    def rest(self) -> Request:
        """What is left to generate."""
        return replace(self.request, generated=(*self.request.generated, *self.generated))

    def taken(self, output: StepOutput, now: float) -> StepOutput:
        """Note an output, and tell it as if there had been one run."""
        self.generated += output.token_ids
        timing, cache = output.timing, None if self.cache_told else output.cache
        self.cache_told |= cache is not None
        if self.first_token_s is None:
            if output.token_ids:
                self.first_token_s, self.first_timing = now, timing
        elif self.losses and self.first_timing is not None:
            timing = replace(self.first_timing, decode_ms=(now - self.first_token_s) * 1e3)
        return replace(output, id=self.id, timing=timing, cache=cache)


class RecoveringHost:
    """A host whose child may die: requests that were running go on when the model is back.

    A draw is a function of seed and token index, so the rest of an answer is what it would have
    been. ``make`` gives a host that is not started; ``on_change`` is told each new state with its
    cause, from whatever thread brings it about, and must not block.
    """

    def __init__(
        self,
        make: MakeHost,
        policy: Policy,
        *,
        on_change: Callable[[State, str], None] = lambda state, cause: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.state: State = "loading"
        self.detail = ""
        self.load_s = 0.0
        self.facts: EngineFacts | None = None  # of the present child, or of the last one
        self.recovering_since_s = 0.0
        self.recoveries: dict[str, int] = {}
        self._make = make
        self._policy = policy
        self._on_change = on_change
        self._clock = clock
        self._ids = itertools.count()
        self._lives = itertools.count(1)
        self._life = 0  # which of the hosts made so far is the present one
        self._host: MortalHost | None = None
        self._unkilled: MortalHost | None = None  # of those before it, or it once it is closed
        self._records: dict[int, Record] = {}
        self._losses: list[float] = []  # since a request was last completed
        self._last_try_s = 0.0
        self._gate = threading.RLock()
        self._stop = threading.Event()
        self._recovery: threading.Thread | None = None

    @property
    def pid(self) -> int | None:
        """The child's process id, None while there is none."""
        host = self._host
        return getattr(host, "pid", None) if self.state == "loaded" else None

    @property
    def stuck(self) -> bool:
        """Whether a process that was killed is still there; until it is gone nothing is loaded."""
        return self._unkilled is not None and not self._unkilled.gone()

    def start(self) -> EngineFacts:
        return self._bring_up("loaded")

    def submit(self, request: Request, deliver: Deliver) -> int:
        """As every host does; EngineLost while there is no model to take the request."""
        params = request.params
        if params.seed is None:  # drawn here, so that a second run draws the same
            params = replace(params, seed=secrets.randbits(SEED_BITS))
            request = replace(request, params=params)
        with self._gate:
            if self.state == "closed":
                raise EngineClosed("the model was closed", hint="load it again to go on")
            if self.state != "loaded" or self._host is None:
                raise EngineLost(f"the model is {self.state}", hint="try again in a moment")
            record = Record(next(self._ids), request, deliver)
            self._records[record.id] = record
            try:
                self._run(record)
            except HelexaError:
                del self._records[record.id]
                raise
        return record.id

    def abort(self, request_id: int, *, completed: bool = False) -> None:
        with self._gate:
            record = self._records.pop(request_id, None)
            if record is None:
                return
            if completed:
                self._losses.clear()
            if record.running_as is not None and self._host is not None:
                self._host.abort(record.running_as, completed=completed)

    def status(self) -> EngineStatus:
        host = self._host
        return EngineStatus() if host is None else host.status()

    def kill(self) -> None:
        """Kill the child, as a fault would."""
        if self._host is not None:
            self._host.kill()

    def close(self, timeout_s: float = 5.0) -> bool:
        """As every host does; a model whose process is still there stays ``poisoned``."""
        with self._gate:
            told = self.state == "closed"
            self.state = "closed"
            self._stop.set()
            host = self._host
        gone = host is None or (host.close(timeout_s) and not self.stuck)
        recovery = self._recovery
        if recovery is not None and recovery is not threading.current_thread():
            recovery.join(timeout_s)
        closed = EngineClosed("the model was closed while this request ran")
        self._fail(list(self._records.values()), closed)
        with self._gate:
            if not gone:
                self._unkilled = self._unkilled or host
                self._become("poisoned", UNKILLED)
            elif not told:
                self._become("closed", "closed")
        return gone

    def retry_if_due(self) -> bool:
        """Try to bring a poisoned model back, unless the last try was just now."""
        with self._gate:
            due = self._clock() - self._last_try_s >= self._policy.retry_after
            if self.state != "poisoned" or not due or self._busy or self._stop.is_set():
                return False
            if self.stuck:
                return False
            self._last_try_s = self._clock()
            self._recover_on_a_thread(attempts=1)
        return True

    def seconds_until_retry(self) -> float:
        """How long until `retry_if_due` would try, if there is nothing else against it."""
        if self.stuck:
            return self._policy.retry_after
        return max(0.0, self._last_try_s + self._policy.retry_after - self._clock())

    @property
    def _busy(self) -> bool:
        return self._recovery is not None and self._recovery.is_alive()

    def _bring_up(self, cause: str) -> EngineFacts:
        """Make a host, start it, and go on with what waited, in order of arrival."""
        began = self._last_try_s = self._clock()
        life = next(self._lives)
        host = self._make(lambda loss: self._lost(life, loss))
        with self._gate:
            self._host = host  # so that closing reaches it while it loads
            self._refuse_if_closed()
        facts = self._started(host)
        with self._gate:
            self._refuse_if_closed()
            if host.loss is not None:
                self._keep_if_there(host)
                raise host.loss.error
            self._life = life
            self.facts = facts
            self.load_s = self._clock() - began
            self._become("loaded", cause)
            for record in list(self._records.values()):
                self._run_again(record)
        return facts

    def _started(self, host: MortalHost) -> EngineFacts:
        try:
            return host.start()
        except BaseException:
            self._keep_if_there(host)
            raise
        finally:
            self._last_try_s = self._clock()

    def _keep_if_there(self, host: MortalHost) -> None:
        if not host.gone():
            self._unkilled = host

    def _refuse_if_closed(self) -> None:
        if self._stop.is_set():
            raise EngineClosed("the model was closed while it was loading")

    def _run_again(self, record: Record) -> None:
        try:
            self._run(record)
        except HelexaError as error:
            self._fail([record], error)

    def _run(self, record: Record) -> None:
        """Hand a record to the present host."""
        assert self._host is not None
        life = self._life

        def take(output: StepOutput) -> None:
            self._take(record, life, output)

        record.running_as = self._host.submit(record.rest(), take)

    def _take(self, record: Record, life: int, output: StepOutput) -> None:
        if isinstance(output.error, OF_THE_HOST):
            with self._gate:
                record.running_as = None
            return  # what becomes of it is decided once for all, in _lost
        with self._gate:
            if self._records.get(record.id) is not record or life != self._life:
                raise ConsumerGone
            told = record.taken(output, self._clock())
            if output.finished:
                del self._records[record.id]
            if output.finish_reason is not None:  # one that fails by itself shows no health
                self._losses.clear()
        record.deliver(told)

    def _lost(self, life: int, loss: Loss) -> None:
        """The present host's child is gone: decide what becomes of everything."""
        policy, now = self._policy, self._clock()
        with self._gate:
            if life != self._life or self.state != "loaded":
                return
            self.recovering_since_s = now
            self.recoveries[loss.cause] = self.recoveries.get(loss.cause, 0) + 1
            self._losses = [at for at in self._losses if now - at < policy.storm_window] + [now]
            for record in self._records.values():
                record.losses += 1
            hopeless = [r for r in self._records.values() if self._hopeless(r)]
            for record in hopeless:
                del self._records[record.id]
            waiting = list(self._records.values())  # fixed before anything can be resubmitted
            if not loss.reaped:
                self._unkilled = self._host
                self._poison(UNKILLED)
            elif len(self._losses) >= policy.storm:
                self._poison(f"lost {len(self._losses)} times with no request completed between")
            else:
                self._become("recovering", loss.cause)
                self._recover_on_a_thread(policy.attempts)
        for record in hopeless:  # who hears of it may look at once, and finds the new state
            hand_to(record.deliver, StepOutput(record.id, error=loss.error))
        timer = threading.Timer(policy.resume_wait, self._give_up_on, (waiting, loss.error))
        timer.daemon = True
        timer.start()

    def _hopeless(self, record: Record) -> bool:
        """Whether an interrupted request does not wait for the model to come back."""
        return record.losses > 1 or self._policy.resume_wait <= 0

    def _recover_on_a_thread(self, attempts: int) -> None:
        self._recovery = threading.Thread(
            target=self._recover, args=(attempts,), name="helexa-recovery", daemon=True
        )
        self._recovery.start()

    def _recover(self, attempts: int) -> None:
        for attempt in range(attempts):
            if attempt and self._stop.wait(self._pause(attempt)):
                return
            if self.stuck:
                detail = UNKILLED
                break
            try:
                self._bring_up("recovered")
            except EngineClosed:
                return
            except Exception as error:  # whatever keeps it from loading: try again, then say so
                log.warning("try %d of %d to load again failed: %s", attempt + 1, attempts, error)
                detail = f"loading again failed {attempts} times: {error}"
                continue
            return
        with self._gate:
            if not self._stop.is_set():
                self._poison(detail)

    def _pause(self, attempt: int) -> float:
        pauses = self._policy.pauses
        return pauses[min(attempt, len(pauses)) - 1]

    def _poison(self, detail: str) -> None:
        self._become("poisoned", detail)
        error = EngineLost(f"the model did not come back: {detail}")
        self._fail(list(self._records.values()), error)

    def _give_up_on(self, waiting: list[Record], error: HelexaError) -> None:
        """Fail those that have waited too long."""
        self._fail([record for record in waiting if record.running_as is None], error)

    def _fail(self, records: list[Record], error: HelexaError) -> None:
        """End those of some requests that are still open."""
        with self._gate:
            failed = [r for r in records if self._records.pop(r.id, None) is not None]
        for record in failed:
            hand_to(record.deliver, StepOutput(record.id, error=error))

    def _become(self, state: State, cause: str) -> None:
        self.state, self.detail = state, cause
        self._on_change(state, cause)
