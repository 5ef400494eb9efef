"""The door of one model: callers wait here for a seat and for room in the KV cache."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio

from helexa.errors import HelexaError
from helexa.neuron.config import AdmissionConfig
from helexa.neuron.seating import Rules, Seating, Ticket
from helexa.protocol.control import ModelLoad

logger = logging.getLogger(__name__)

ACCOUNT_HEADER = "x-helexa-account-id"
KEY_HEADER = "x-helexa-key-id"
LONG_WAIT_S = 10.0


def principal_of(headers: Mapping[str, str], *, trusted: bool = True) -> str | None:
    """Who sends a request, None if that is not known; ``headers`` by lower-case name.

    Both headers must be there, 1 to 256 visible ASCII characters each, and come from a gateway
    that is believed.
    """
    account, key = headers.get(ACCOUNT_HEADER, ""), headers.get(KEY_HEADER, "")
    if not (trusted and is_name(account) and is_name(key)):
        return None
    return f"{account}/{key}"


def is_name(text: str) -> bool:
    return 0 < len(text) <= 256 and all("!" <= character <= "~" for character in text)


@dataclass(slots=True, eq=False)
class Permit:
    """The right to run, held until `release`; ``waited_s`` is what it took to get it."""

    _door: Admission
    _ticket: Ticket
    waited_s: float = 0.0

    @property
    def principal(self) -> str | None:
        return self._ticket.principal

    @property
    def kv_mb(self) -> int:
        return self._ticket.kv_mb

    @property
    def held(self) -> bool:
        """Whether it has not been released."""
        return self._ticket.stage == "admitted"

    def release(self) -> None:
        """Give everything back; the second time does nothing."""
        self._door._leave(self._ticket)

    def move(self, door: Admission) -> None:
        """Take the seat along to another door, which has to count it whatever is free there.

        One that was released stays so.
        """
        if not self.held:
            return
        self.release()
        self._door, self._ticket = door, door._adopt(self._ticket)


class Admission:
    """One model's seats, queue and KV budget (MiB; None: memory is not counted).

    ``clock`` gives seconds. To be used on one event loop.
    """

    def __init__(
        self,
        model_id: str,
        config: AdmissionConfig,
        *,
        kv_budget_mb: int | None = None,
        clock: Callable[[], float] = anyio.current_time,
    ) -> None:
        self._model_id = model_id
        self._config = config
        self._seating = Seating(Rules.of(config), kv_budget_mb)
        self._clock = clock

    @asynccontextmanager
    async def enter(self, principal: str | None, kv_mb: int = 0) -> AsyncIterator[Permit]:
        """Wait for a permit and hold it inside the block; raises as `acquire`."""
        permit = await self.acquire(principal, kv_mb)
        try:
            yield permit
        finally:
            permit.release()

    async def acquire(self, principal: str | None, kv_mb: int = 0) -> Permit:
        """Wait for a permit that the caller must release; cancelled, it leaves no trace.

        Raises Overloaded, KvTimeout, KvUnservable, or what `close` was given.
        """
        started_s = self._clock()
        ticket = self._seating.arrive(principal, kv_mb, started_s)
        outcome = "left"
        try:
            await self._wait(ticket)
            outcome = "admitted" if ticket.refusal is None else "refused"
        except BaseException:
            self._leave(ticket)
            raise
        finally:
            waited_s = self._clock() - started_s
            self._note(principal, waited_s, outcome)
        if ticket.refusal is not None:
            raise ticket.refusal
        return Permit(self, ticket, waited_s)

    def _note(self, principal: str | None, waited_s: float, outcome: str) -> None:
        """Log a wait that was long, however it ended."""
        if waited_s <= LONG_WAIT_S:
            return
        fields = {
            "model": self._model_id,
            "principal": principal or "anonymous",
            "waited_ms": round(1000 * waited_s),
            "outcome": outcome,
        }
        logger.info("long wait for admission", extra={"fields": fields})

    async def _wait(self, ticket: Ticket) -> None:
        """Return once the ticket waits no more."""
        while ticket.waits:
            moved = anyio.Event()
            ticket.on_move = moved.set
            with anyio.move_on_after(max(0.0, ticket.deadline_s - self._clock())):
                await moved.wait()
            self._seating.expire(ticket, self._clock())

    def set_kv_budget(self, budget_mb: int) -> None:
        """Start to count KV memory; only the first call has an effect."""
        self._seating.set_kv_budget(budget_mb)

    def close(self, reason: Callable[[], HelexaError]) -> None:
        """Refuse everyone who waits and whoever comes later, each with an error of its own."""
        self._seating.close(reason)

    def renewed(self, kv_budget_mb: int | None = None) -> Admission:
        """A door of the same rules, where nothing has happened yet; without a budget, the same."""
        budget_mb = self._seating.kv_budget_mb if kv_budget_mb is None else kv_budget_mb
        return Admission(self._model_id, self._config, kv_budget_mb=budget_mb, clock=self._clock)

    def report(self, tok_s_prefill: float = 0, tok_s_decode: float = 0) -> ModelLoad:
        """The present load and the refusals so far."""
        state, rules, refused = self._seating, self._seating.rules, self._seating.refused
        return ModelLoad(
            id=self._model_id,
            in_flight=state.running,
            queue_depth=max(0, state.pending - state.running),
            max_in_flight=rules.seats,
            max_queue_depth=rules.places - rules.seats,
            rejected_queue_full=refused["queue_full"],
            rejected_timeout=refused["wait_timeout"],
            rejected_per_principal=refused["per_principal"],
            anon_in_flight=state.anonymous_running,
            anon_max_in_flight=rules.anonymous_seats,
            rejected_anon_yield=refused["anon_yield"],
            rejected_kv_timeout=refused["kv_timeout"],
            rejected_kv_unservable=refused["kv_unservable"],
            kv_budget_mb=state.kv_budget_mb or 0,
            kv_available_mb=state.kv_free_mb,
            tok_s_prefill=tok_s_prefill,
            tok_s_decode=tok_s_decode,
        )

    def _leave(self, ticket: Ticket) -> None:
        self._seating.leave(ticket, self._clock())

    def _adopt(self, ticket: Ticket) -> Ticket:
        return self._seating.adopt(ticket)
