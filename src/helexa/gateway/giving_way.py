"""Two models that do not fit together: how the one that is answering is brought to its end."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import TracebackType
from typing import Self

import anyio

from helexa.gateway.catalogue import Profile
from helexa.gateway.eviction import candidates_for, unsettled_for
from helexa.gateway.fleet import Node
from helexa.gateway.poller import poll_health, poll_models
from helexa.gateway.state import State

LOOK_S = 0.05
"""Between two looks at what is known here."""
ASK_S = 1.0
"""Between two questions to the neuron, for requests that are not this gateway's."""
PATIENCE_S = 3.0
"""How long a busy model gets new requests while another waits for its place."""
CLOSED_S = 30.0
"""How long it gets none at most."""

log = logging.getLogger(__name__)


class GivingWay:
    """A load that waits for a busy model, as a context: `chance` until the load succeeds.

    One whose place has been waited for longer than ``PATIENCE_S`` gets no new requests
    (`Node.leaving`) while this is entered, so that models which are always asked for take turns.
    ``wanted`` says whether anybody still waits for the load.
    """

    def __init__(
        self, state: State, node: Node, profile: Profile, wanted: Callable[[], bool]
    ) -> None:
        self._state, self._node, self._profile = state, node, profile
        self._wanted = wanted
        self._leaving: set[str] = set()
        self._began = anyio.current_time()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._node.leaving -= self._leaving

    async def chance(self) -> bool:
        """Return once a model that may go has nothing to do, or nothing is left that would go.

        False if it is not worth waiting.
        """
        state, node, profile = self._state, self._node, self._profile
        while self._wanted():
            candidates = candidates_for(state, node, profile)
            coming = unsettled_for(state, node, profile)
            others = any(model not in node.own for model in candidates)
            await anyio.sleep(ASK_S if others or coming else LOOK_S)
            if coming:
                await poll_models(state, node)
            if others:
                await poll_health(state, node)
            waited_s = anyio.current_time() - self._began
            if waited_s > PATIENCE_S + CLOSED_S:
                return False
            candidates = candidates_for(state, node, profile)
            if not all(map(node.busy, candidates)):
                return True
            if not candidates and not unsettled_for(state, node, profile):
                return True
            if candidates and waited_s >= PATIENCE_S:
                self._close(candidates)
        return False

    def _close(self, candidates: list[str]) -> None:
        """Let the first of them get no new requests, unless one of them does not already."""
        if not self._leaving.intersection(candidates):
            first, node = candidates[0], self._node
            self._leaving.add(first)
            log.info("node %s: %s finishes, to leave for %s", node.name, first, self._profile.id)
        self._node.leaving |= self._leaving  # another that waits may have given up
