"""Runs the steps a scheduler plans, on one device."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from helexa.engine.ahead.launched import Launched
from helexa.engine.allocation import refusals_as_memory_errors
from helexa.engine.batch import Computed, Part

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from helexa.engine.batch import Batch
    from helexa.engine.cache.copies import Copy
    from helexa.engine.cache.kv import KVCache
    from helexa.engine.graphs import DecodeGraphs
    from helexa.engine.models.model import Model


@dataclass(slots=True)
class StepsAhead:
    """How many steps were launched ahead, and how many of them were what was asked for."""

    launched: int = 0
    used: int = 0


class Runner:
    """A model and the cache it works on. For one thread at a time.

    ``model_s`` is how long the model took in the last run, in seconds of ``clock``: from the batch
    to the logits, without making the batch. It is the host's time: a GPU may still be working.
    ``hidden`` [R, hidden] is what the logits of that run were made of; the next one may overwrite
    it. Steps that ``graphs`` has, if there are any, are replayed. One that was launched ahead is
    the very next run, or is dropped.
    """

    def __init__(
        self,
        model: Model,
        cache: KVCache,
        clock: Callable[[], float] = time.perf_counter,
        graphs: DecodeGraphs | None = None,
    ) -> None:
        self.model = model
        self.cache = cache
        self.model_s = 0.0
        self.hidden = torch.empty(0, 0)
        self._clock = clock
        self._graphs = graphs
        self.steps_ahead = StepsAhead()
        self._launched: Launched | None = None

    @property
    def looks_ahead(self) -> bool:
        """Whether steps may be launched ahead: a recurrent state could not be put back."""
        able = self._graphs is not None and self.cache.states is None
        return able and self.model.numerics.look_ahead

    @torch.inference_mode()
    def run(self, parts: Sequence[Part | tuple[Sequence[int], int, Sequence[int], int]]) -> Tensor:
        """Execute one step (see `batch.Part`): → logits [R, V] float32.

        A row for each of the last positions whose logits a part wants, in order; R may be 0. They
        may be overwritten by the next step. Raises MemoryError or torch.OutOfMemoryError if host or
        GPU have no memory for it.
        """
        works = [Part(*part) for part in parts] if self._graphs else []
        launched, self._launched = self._launched, None
        rows = None if launched is None else launched.rows(works)
        with refusals_as_memory_errors():
            if launched is not None and rows is not None:
                self.steps_ahead.used += 1
                self.model_s = launched.seconds
                self.hidden, logits = launched.rows_of(rows)
                return logits
            step = self._graphs.step(works) if self._graphs else None
            if step is None:
                step = partial(self._plain, self.model.batch(parts, self.cache.block_size))
            begin = self._clock()
            self.hidden, logits = step()
            self.model_s = self._clock() - begin
        return logits

    def has_recorded(self, parts: Sequence[Part]) -> bool:
        """Whether a step of these is recorded, so that it can be launched ahead."""
        return self._graphs is not None and self._graphs.recorded(parts)

    @torch.inference_mode()
    def launch(self, parts: Sequence[Part], ids: Tensor) -> Launched | None:
        """Launch the step after the one that was run before its tokens are known.

        ``ids`` [S] int64 on the device are in place of the parts'. It overwrites the logits of the
        last run, not ``hidden``. The next run takes what it computes, or drops it.
        """
        step = self._graphs.step_of(parts, ids) if self._graphs else None
        if step is None:
            return None
        self.hidden = self.hidden.clone()
        begin = self._clock()
        computed = step()
        self._launched = Launched.of(parts, self.cache.block_size, computed, self._clock() - begin)
        self.steps_ahead.launched += 1
        return self._launched

    def _plain(self, batch: Batch) -> Computed:
        hidden = self.model(batch, self.cache).index_select(0, batch.logit_rows)
        return Computed(hidden, self.model.logits(hidden))

    @torch.inference_mode()
    def copy(self, copies: Sequence[Copy]) -> None:
        """Give pages and states the contents of others, one after the other."""
        self._launched = None
        states = self.cache.states
        for what, source, target in copies:
            if what == "page":
                self.cache.copy_page(source, target)
            elif states is not None:
                states.copy(source, target)
