"""Who may run, who waits, who is refused: the rules of admission, with no clock and no waiting.

Every method takes the time and leaves each ticket either where it was, admitted, or refused. A
ticket that moves calls its ``on_move``. `admission.py` adds the waiting.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from helexa.errors import HelexaError
from helexa.neuron.config import AdmissionConfig
from helexa.refusals import AnonYield, KvTimeout, KvUnservable, PrincipalCap, QueueFull, SeatTimeout

Stage = Literal["kv", "seat", "gate", "admitted", "gone"]
Blocker = Literal["kv", "slot", "reservation"]
Reason = Literal[
    "queue_full", "wait_timeout", "per_principal", "anon_yield", "kv_timeout", "kv_unservable"
]


@dataclass(frozen=True, slots=True)
class Rules:
    """The numbers that admission goes by; waits in seconds."""

    seats: int
    places: int  # running and waiting together
    per_principal: int  # 0: no limit
    anonymous_seats: int
    anonymous_places: int
    seat_wait_s: float
    kv_wait_s: float

    @classmethod
    def of(cls, config: AdmissionConfig) -> Rules:
        """What a configuration means, its defaults filled in and its caps within the whole."""
        seats = max(1, config.max_in_flight)
        places = seats + config.max_queue_depth
        anonymous_seats, anonymous_places = config.anon_max_in_flight, config.anon_max_pending
        if anonymous_seats is None:
            anonymous_seats = max(seats - 1, 1)
        if anonymous_places is None:
            anonymous_places = max(places - 1, 1)
        return cls(
            seats=seats,
            places=places,
            per_principal=config.max_per_principal,
            anonymous_seats=min(anonymous_seats, seats),
            anonymous_places=min(anonymous_places, places),
            seat_wait_s=config.max_wait_secs,
            kv_wait_s=config.kv_max_wait_secs,
        )

    def hint_s(self, pending: int) -> int:
        """In how many seconds a caller may try again, if so many are running and waiting."""
        return min(max((max(0, pending - self.seats) + 1) * 2, 1), 120)


def nothing() -> None:
    """What a ticket does when it moves, unless somebody waits for it."""


@dataclass(slots=True, eq=False)
class Ticket:
    """One request on its way through admission; ``principal`` None is an anonymous caller."""

    principal: str | None
    kv_mb: int
    arrived_s: float
    stage: Stage = "gone"
    deadline_s: float = 0.0
    blocker: Blocker = "slot"  # of an anonymous ticket: what it waits for
    refusal: HelexaError | None = None
    on_move: Callable[[], None] = nothing

    @property
    def waits(self) -> bool:
        return self.stage not in ("admitted", "gone")


@dataclass(slots=True)
class Seating:
    """The seats and the KV budget of one model, and everyone who holds or wants some.

    ``kv_budget_mb`` None: memory is not counted. Used from one thread only.
    """

    rules: Rules
    kv_budget_mb: int | None = None
    pending: int = 0
    anonymous_pending: int = 0
    anonymous_running: int = 0
    running: int = 0
    kv_used_mb: int = 0
    by_principal: Counter[str] = field(default_factory=Counter)
    kv_queue: deque[Ticket] = field(default_factory=deque)
    seat_queue: deque[Ticket] = field(default_factory=deque)
    gate: list[Ticket] = field(default_factory=list)
    refused: Counter[Reason] = field(default_factory=Counter)
    closed: Callable[[], HelexaError] | None = None

    @property
    def kv_free_mb(self) -> int:
        """What is left of the budget; 0 if memory is not counted."""
        return max(0, (self.kv_budget_mb or 0) - self.kv_used_mb)

    @property
    def identified_waiting(self) -> int:
        return len(self.kv_queue) + len(self.seat_queue)

    def set_kv_budget(self, budget_mb: int) -> None:
        """Start to count memory; only the first call has an effect."""
        if self.kv_budget_mb is None:
            self.kv_budget_mb = budget_mb

    def arrive(self, principal: str | None, kv_mb: int, now_s: float) -> Ticket:
        """A ticket, admitted or waiting. Raises the error of a refusal."""
        if self.closed is not None:
            raise self.closed()
        self._check_room(principal)
        if self.kv_budget_mb is None:
            kv_mb = 0
        elif kv_mb > self.kv_budget_mb:
            self.refused["kv_unservable"] += 1
            raise KvUnservable(required_mb=kv_mb, budget_mb=self.kv_budget_mb)
        ticket = Ticket(principal, kv_mb, now_s)
        self._reserve(ticket, 1)
        if principal is None:
            self._try_anonymous(ticket)
            if ticket.stage == "gate":
                self.gate.append(ticket)
        elif kv_mb:
            self._queue(ticket, "kv", now_s)
        else:
            self._queue(ticket, "seat", now_s)
        self._settle(now_s)
        return ticket

    def leave(self, ticket: Ticket, now_s: float) -> None:
        """Give back all that a ticket holds, whether it waited, ran, or is gone already."""
        if ticket.stage != "gone":
            self._drop(ticket)
            self._settle(now_s, wake_gate=True)

    def expire(self, ticket: Ticket, now_s: float) -> None:
        """Refuse a ticket that still waits although its time is up."""
        if ticket.waits and now_s >= ticket.deadline_s:
            reason, error = self._timeout(ticket)
            self.refused[reason] += 1
            self._refuse(ticket, error)
            self._settle(now_s, wake_gate=True)

    def close(self, error: Callable[[], HelexaError]) -> None:
        """Refuse everyone who waits and all who will come; running requests go on."""
        self.closed = error
        for ticket in [*self.kv_queue, *self.seat_queue, *self.gate]:
            self._refuse(ticket, error())

    def adopt(self, ticket: Ticket) -> Ticket:
        """Count a request that already runs elsewhere, whatever is free here."""
        kv_mb = 0 if self.kv_budget_mb is None else ticket.kv_mb
        adopted = Ticket(ticket.principal, kv_mb, ticket.arrived_s)
        self._reserve(adopted, 1)
        self.kv_used_mb += kv_mb
        self._seat(adopted)
        return adopted

    def _check_room(self, principal: str | None) -> None:
        rules, hint_s = self.rules, self.rules.hint_s(self.pending)
        if self.pending >= rules.places:
            self.refused["queue_full"] += 1
            raise QueueFull(hint_s)
        if principal is None:
            if rules.anonymous_seats == 0 or self.anonymous_pending >= rules.anonymous_places:
                self.refused["anon_yield"] += 1
                raise AnonYield(hint_s)
        elif 0 < rules.per_principal <= self.by_principal[principal]:
            self.refused["per_principal"] += 1
            raise PrincipalCap(hint_s)

    def _reserve(self, ticket: Ticket, change: int) -> None:
        self.pending += change
        if ticket.principal is None:
            self.anonymous_pending += change
            return
        self.by_principal[ticket.principal] += change
        if not self.by_principal[ticket.principal]:
            del self.by_principal[ticket.principal]

    def _queue(self, ticket: Ticket, stage: Literal["kv", "seat"], now_s: float) -> None:
        wait_s = self.rules.kv_wait_s if stage == "kv" else self.rules.seat_wait_s
        ticket.stage, ticket.deadline_s = stage, now_s + wait_s
        (self.kv_queue if stage == "kv" else self.seat_queue).append(ticket)

    def _settle(self, now_s: float, *, wake_gate: bool = False) -> None:
        """Hand out what is free: memory, then seats, in order; anonymous callers get the rest."""
        while self.kv_queue and self._has_kv(self.kv_queue[0]):
            ticket = self.kv_queue.popleft()
            self.kv_used_mb += ticket.kv_mb
            self._queue(ticket, "seat", now_s)
            ticket.on_move()
        while self.seat_queue and self.running < self.rules.seats:
            self._seat(self.seat_queue.popleft())
            wake_gate = True
        if not wake_gate:
            return
        for ticket in list(self.gate):
            self._try_anonymous(ticket)
            if ticket.stage == "admitted":
                self.gate.remove(ticket)
            ticket.on_move()

    def _has_kv(self, ticket: Ticket) -> bool:
        return ticket.kv_mb <= self.kv_free_mb

    def _seat(self, ticket: Ticket) -> None:
        self.running += 1
        self.anonymous_running += ticket.principal is None
        ticket.stage = "admitted"
        ticket.on_move()

    def _try_anonymous(self, ticket: Ticket) -> None:
        """Admit an anonymous ticket if nobody who is known wants for anything, or note why not."""
        seat_free = self.running < self.rules.seats
        kept = self.identified_waiting or self.anonymous_running >= self.rules.anonymous_seats
        if kept:
            ticket.blocker = "reservation" if seat_free else "slot"
        elif ticket.kv_mb and not self._has_kv(ticket):
            ticket.blocker = "kv"
        elif not seat_free:
            ticket.blocker = "slot"
        else:
            self.kv_used_mb += ticket.kv_mb
            self._seat(ticket)
            return
        wait_s = self.rules.kv_wait_s if ticket.blocker == "kv" else self.rules.seat_wait_s
        ticket.stage, ticket.deadline_s = "gate", ticket.arrived_s + wait_s

    def _timeout(self, ticket: Ticket) -> tuple[Reason, HelexaError]:
        hint_s = self.rules.hint_s(self.rules.places)
        at_gate = ticket.stage == "gate"
        if at_gate and ticket.blocker == "reservation":
            return "anon_yield", AnonYield(hint_s)
        if ticket.stage == "kv" or (at_gate and ticket.blocker == "kv"):
            free_mb = self.kv_free_mb
            return "kv_timeout", KvTimeout(
                required_mb=ticket.kv_mb, free_mb=free_mb, retry_after_s=hint_s
            )
        return "wait_timeout", SeatTimeout(hint_s)

    def _refuse(self, ticket: Ticket, error: HelexaError) -> None:
        ticket.refusal = error
        self._drop(ticket)
        ticket.on_move()

    def _drop(self, ticket: Ticket) -> None:
        """Take a ticket out: its seat, its memory, its reservation."""
        if ticket.stage == "admitted":
            self.running -= 1
            self.anonymous_running -= ticket.principal is None
        elif ticket.stage == "gate":
            self.gate.remove(ticket)
        elif ticket.stage == "kv":
            self.kv_queue.remove(ticket)
        else:
            self.seat_queue.remove(ticket)
        if ticket.stage in ("admitted", "seat"):
            self.kv_used_mb -= ticket.kv_mb
        self._reserve(ticket, -1)
        ticket.stage = "gone"
