"""Loading the default models after the start, one after another, while requests are served."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any

import anyio

from helexa.errors import PreflightError
from helexa.neuron.ids import ModelSpec
from helexa.protocol.control import ActivationStatus, FailedActivation
from helexa.protocol.envelope import chain_text
from helexa.refusals import DriverSilent

logger = logging.getLogger(__name__)

PAUSES_S = (10, 20, 40, 80, 160, 300)
"""Waits between rounds; after the last there is one more round."""

Load = Callable[[ModelSpec], Awaitable[None]]


class ActivationTracker:
    """How far the loading of the default models is; an id is in one place only."""

    def __init__(self, ids: Iterable[str] = ()) -> None:
        pending = tuple(dict.fromkeys(ids))
        self.status = ActivationStatus(state="pre_warming" if pending else "ready", pending=pending)

    def start(self, id: str) -> None:
        """A load begins."""
        pending = tuple(other for other in self.status.pending if other != id)
        self._set(pending=pending, in_progress=id)

    def complete(self, id: str) -> None:
        """A load succeeded."""
        self._end(id)
        if id not in self.status.completed:
            self._set(completed=(*self.status.completed, id))

    def fail(self, id: str, error: str) -> None:
        """A load failed for good."""
        self._end(id)
        failure = FailedActivation(model_id=id, error=error)
        self._set(failed=(*self.status.failed, failure))

    def defer(self, id: str) -> None:
        """A load failed and will be tried again."""
        self._end(id)
        if id not in self.status.pending:
            self._set(pending=(*self.status.pending, id))

    def mark_ready(self) -> None:
        """Nothing more will be loaded; what is still pending stays listed."""
        self._set(state="ready", in_progress=None)

    def _end(self, id: str) -> None:
        if self.status.in_progress == id:
            self._set(in_progress=None)

    def _set(self, **changes: Any) -> None:
        self.status = replace(self.status, **changes)


async def activate(
    specs: Sequence[ModelSpec],
    tracker: ActivationTracker,
    load: Load,
    *,
    harnesses: Collection[str],
    unavailable: str | None = None,
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ended: Callable[[], bool] = lambda: False,
) -> None:
    """Load the models in order and note in ``tracker`` what became of each.

    A model whose files could not be listed, or whose cards the driver has not told, is tried again
    in later rounds, `PAUSES_S` apart.
    ``unavailable`` says why the accelerator cannot be used: then nothing is tried. Once the daemon
    has ``ended``, what has not been loaded has not failed either: it is left as it is.
    """
    first = {spec.model_id: spec for spec in reversed(specs)}
    remaining = [spec for spec in specs if first[spec.model_id] is spec]
    for wait_s in (*PAUSES_S, None):
        deferred = []
        for spec in remaining:
            if ended():
                return
            tracker.start(spec.model_id)
            error = await attempt(spec, load, harnesses, unavailable)
            if error is not None and ended():
                return
            if error is None:
                tracker.complete(spec.model_id)
            elif wait_s is not None and is_passing(error):
                tracker.defer(spec.model_id)
                deferred.append(spec)
            else:
                tracker.fail(spec.model_id, chain_text(error))
                logger.error("cannot load %s: %s", spec.model_id, chain_text(error))
        remaining = deferred
        if not remaining or wait_s is None:
            break
        logger.warning("%d models cannot be loaded yet; next try in %d s", len(remaining), wait_s)
        await sleep(wait_s)
    tracker.mark_ready()


async def attempt(
    spec: ModelSpec, load: Load, harnesses: Collection[str], unavailable: str | None
) -> Exception | None:
    """Load one model; the error if that cannot be done."""
    if unavailable is not None:
        return RuntimeError(unavailable)
    if spec.harness not in harnesses:
        return ValueError(f"unknown harness {spec.harness!r}")
    try:
        await load(spec)
    except Exception as error:  # noted and logged; the next model may be luckier
        return error
    return None


def is_passing(error: Exception) -> bool:
    """Whether the same load may succeed later without anybody doing anything."""
    if isinstance(error, DriverSilent):
        return True
    return isinstance(error, PreflightError) and error.kind == "repo_fetch_failed"
