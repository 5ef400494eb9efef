"""Admission under every order of arrivals, departures, timeouts and cancellations."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial

import anyio
import pytest
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from helexa.errors import HelexaError
from helexa.neuron.admission import Admission
from helexa.neuron.config import AdmissionConfig
from helexa.neuron.seating import Rules, Seating, Ticket
from helexa.refusals import KvTimeout, Overloaded, ShuttingDown
from tests.neuron.virtual_time import JumpingLoop

BUDGET_MB = 1000
PRINCIPALS = st.sampled_from([None, "a/1", "b/1", "c/1"])
SIZES_MB = st.sampled_from([100, 400, 900, 0, 1001])
CALLERS = st.tuples(PRINCIPALS, SIZES_MB)
CONFIGS = st.builds(
    AdmissionConfig,
    max_in_flight=st.integers(1, 3),
    max_queue_depth=st.integers(1, 6),
    max_wait_secs=st.sampled_from([30, 3, 0]),
    max_per_principal=st.sampled_from([0, 2, 3]),
    anon_max_in_flight=st.none() | st.integers(0, 3),
    anon_max_pending=st.none() | st.integers(1, 5),
    kv_max_wait_secs=st.sampled_from([60, 5, 0]),
)


class Door(RuleBasedStateMachine):
    """Drives the rules as tasks would, and checks after each step that nothing is amiss."""

    @initialize(config=CONFIGS, budget_mb=st.none() | st.just(BUDGET_MB))
    def open(self, config: AdmissionConfig, budget_mb: int | None) -> None:
        self.rules_ = Rules.of(config)
        self.seating = Seating(self.rules_, budget_mb)
        self.now_s = 0.0
        self.live: list[Ticket] = []
        self.line: list[Ticket] = []  # in the order in which they came to want only a seat
        self.numbers: dict[Ticket, int] = {}  # in the order in which they arrived
        self.tally: Counter[str] = Counter()

    @rule(callers=st.lists(CALLERS, min_size=1, max_size=5))
    def crowd(self, callers: list[tuple[str | None, int]]) -> None:
        for principal, kv_mb in callers:
            self.arrive(principal, kv_mb)

    def arrive(self, principal: str | None, kv_mb: int) -> None:
        self.tally["arrived"] += 1
        try:
            ticket = self.seating.arrive(principal, kv_mb, self.now_s)
        except ShuttingDown:
            self.tally["closed"] += 1
        except HelexaError:
            self.tally["refused"] += 1
        else:
            ticket.on_move = partial(self.moved, ticket)
            self.numbers[ticket] = len(self.numbers)
            self.live.append(ticket)
            if ticket.principal is not None and ticket.stage in ("seat", "admitted"):
                self.line_up(ticket)
            if ticket.stage == "admitted":
                self.check_turn(ticket)
            self.serve_the_overdue()

    @precondition(lambda self: any(not ticket.waits for ticket in self.live))
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        self.end(data.draw(st.sampled_from([t for t in self.live if not t.waits])))
        self.tally["served"] += 1

    @precondition(lambda self: any(ticket.waits for ticket in self.live))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.end(data.draw(st.sampled_from([t for t in self.live if t.waits])))
        self.tally["cancelled"] += 1

    @rule(seconds=st.sampled_from([1, 4, 40]))
    def time_passes(self, seconds: int) -> None:
        """Second by second, as each waiter would be woken at its deadline."""
        for _ in range(seconds):
            self.now_s += 1
            self.serve_the_overdue()

    @precondition(lambda self: self.seating.closed is None and self.tally["arrived"] > 30)
    @rule()
    def close(self) -> None:
        waiting = [ticket for ticket in self.live if ticket.waits]
        self.seating.close(ShuttingDown)
        assert all(isinstance(ticket.refusal, ShuttingDown) for ticket in waiting)
        self.live = [ticket for ticket in self.live if ticket not in waiting]
        self.tally["closed"] += len(waiting)

    def end(self, ticket: Ticket) -> None:
        self.seating.leave(ticket, self.now_s)
        self.seating.leave(ticket, self.now_s)  # the second time does nothing
        self.live.remove(ticket)
        self.serve_the_overdue()

    def serve_the_overdue(self) -> None:
        """What the tasks do whose time is up, until none is left."""
        while overdue := [t for t in self.live if t.waits and self.now_s >= t.deadline_s]:
            for ticket in overdue:
                self.seating.expire(ticket, self.now_s)
            gone = [ticket for ticket in self.live if ticket.stage == "gone"]
            assert all(isinstance(t.refusal, Overloaded | KvTimeout) for t in gone)
            self.tally["refused"] += len(gone)
            self.live = [ticket for ticket in self.live if ticket.stage != "gone"]

    def moved(self, ticket: Ticket) -> None:
        if ticket.stage == "seat":
            self.line_up(ticket)
        elif ticket.stage == "admitted":
            self.check_turn(ticket)

    def line_up(self, ticket: Ticket) -> None:
        """A ticket has the memory it wants: nobody who came earlier still waits for memory."""
        self.line.append(ticket)
        if ticket.kv_mb:
            earlier = [t for t in self.live if self.numbers[t] < self.numbers[ticket]]
            assert not any(other.stage == "kv" for other in earlier)

    def check_turn(self, ticket: Ticket) -> None:
        """Nobody takes a seat ahead of an identified caller who was in line for it before."""
        if ticket.principal is None:
            assert self.seating.identified_waiting == 0
            return
        ahead = self.line[: self.line.index(ticket)]
        assert not any(other.stage == "seat" for other in ahead)

    def admitted(self) -> int:
        return sum(ticket.stage == "admitted" for ticket in self.live)

    @invariant()
    def what_is_counted_is_what_is_there(self) -> None:
        seating = self.seating
        known = [ticket for ticket in self.live if ticket.principal is not None]
        assert seating.running == self.admitted() <= self.rules_.seats
        assert seating.pending == len(self.live) <= self.rules_.places
        assert seating.anonymous_pending == len(self.live) - len(known)
        assert seating.anonymous_running <= self.rules_.anonymous_seats
        assert dict(seating.by_principal) == Counter(ticket.principal for ticket in known)
        assert seating.identified_waiting == sum(ticket.waits for ticket in known)
        held = sum(t.kv_mb for t in self.live if t.stage in ("seat", "admitted"))
        assert seating.kv_used_mb == held <= (seating.kv_budget_mb or 0)

    @invariant()
    def nobody_waits_for_what_is_free(self) -> None:
        seating = self.seating
        seat_free = seating.running < self.rules_.seats
        assert not (seat_free and seating.seat_queue)
        assert not (seating.kv_queue and seating.kv_queue[0].kv_mb <= seating.kv_free_mb)
        kept = seating.anonymous_running >= self.rules_.anonymous_seats
        if seat_free and not seating.identified_waiting and not kept:
            assert all(ticket.kv_mb > seating.kv_free_mb for ticket in seating.gate)
        assert set(seating.seat_queue) == {t for t in self.line if t.stage == "seat"}

    @invariant()
    def everyone_who_arrived_is_accounted_for(self) -> None:
        tally = self.tally
        ended = tally["refused"] + tally["closed"] + tally["served"] + tally["cancelled"]
        assert tally["arrived"] == ended + len(self.live)
        assert self.seating.refused.total() == tally["refused"]

    def teardown(self) -> None:
        if not hasattr(self, "seating"):
            return
        for ticket in list(self.live):
            self.seating.leave(ticket, self.now_s)
        assert Seating(self.rules_, self.seating.kv_budget_mb) == self.reset()

    def reset(self) -> Seating:
        self.seating.refused.clear()
        self.seating.closed = None
        return self.seating


TestDoor = Door.TestCase
TestDoor.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


@dataclass
class Visit:
    """A caller who arrives at a time, runs for a while, and may lose patience."""

    at_s: float
    principal: str | None
    kv_mb: int
    runs_s: float
    patience_s: float


@dataclass
class Evening:
    """What became of all visits, and the most seats that were ever taken."""

    door: Admission
    most: int = 0
    served: int = 0
    refused: int = 0
    cancelled: int = 0

    async def visit(self, visit: Visit) -> None:
        await anyio.sleep(visit.at_s)
        with anyio.move_on_after(visit.patience_s):
            try:
                async with self.door.enter(visit.principal, visit.kv_mb):
                    self.most = max(self.most, self.door.report().in_flight)
                    await anyio.sleep(visit.runs_s)
                self.served += 1
            except HelexaError:
                self.refused += 1
            return
        self.cancelled += 1


VISITS = st.builds(
    Visit,
    st.integers(0, 20).map(float),
    PRINCIPALS,
    SIZES_MB,
    st.integers(0, 9).map(float),
    st.sampled_from([0.0, 1.0, 2.5, 1000.0]),
)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@settings(max_examples=25, deadline=None)
@given(config=CONFIGS, visits=st.lists(VISITS, max_size=25), budget=st.none() | st.just(BUDGET_MB))
def test_an_evening_of_visits_leaves_nothing_behind(
    backend: str, config: AdmissionConfig, visits: list[Visit], budget: int | None
) -> None:
    async def evening() -> Evening:
        result = Evening(Admission("m", config, kv_budget_mb=budget))
        async with anyio.create_task_group() as group:
            for visit in visits:
                group.start_soon(result.visit, visit)
        return result

    if backend == "trio":
        options: dict[str, object] = {"clock": trio.testing.MockClock(autojump_threshold=0)}
    else:
        options = {"loop_factory": JumpingLoop}
    result = anyio.run(evening, backend=backend, backend_options=options)
    report = result.door.report()
    assert result.most <= report.max_in_flight
    assert result.served + result.refused + result.cancelled == len(visits)
    assert (report.in_flight, report.queue_depth, report.anon_in_flight) == (0, 0, 0)
    assert report.kv_available_mb == report.kv_budget_mb
    counters = [value for name, value in report.to_wire().items() if "rejected" in name]
    assert result.refused <= sum(counters) <= result.refused + result.cancelled
