"""Runs the steps a scheduler plans, on one device."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

import torch

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


class Runner:
    """A model and the cache it works on. For one thread at a time.

    ``model_s`` is how long the model took in the last run, in seconds of ``clock``: from the batch
    to the logits, without making the batch. It is the host's time: a GPU may still be working.
    ``hidden`` [R, hidden] is what the logits of that run were made of; the next one may overwrite
    it. Steps that ``graphs`` has, if there are any, are replayed.
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

    @torch.inference_mode()
    def run(self, parts: Sequence[Part | tuple[Sequence[int], int, Sequence[int], int]]) -> Tensor:
        """Execute one step (see `batch.Part`): → logits [R, V] float32.

        A row for each of the last positions whose logits a part wants, in order; R may be 0. They
        may be overwritten by the next step. Raises MemoryError or torch.OutOfMemoryError if host or
        GPU have no memory for it.
        """
        with refusals_as_memory_errors():
            step = self._graphs.step([Part(*part) for part in parts]) if self._graphs else None
            if step is None:
                step = partial(self._plain, self.model.batch(parts, self.cache.block_size))
            begin = self._clock()
            self.hidden, logits = step()
            self.model_s = self._clock() - begin
        return logits

    def _plain(self, batch: Batch) -> Computed:
        hidden = self.model(batch, self.cache).index_select(0, batch.logit_rows)
        return Computed(hidden, self.model.logits(hidden))

    @torch.inference_mode()
    def copy(self, copies: Sequence[Copy]) -> None:
        """Give pages and states the contents of others, one after the other."""
        states = self.cache.states
        for what, source, target in copies:
            if what == "page":
                self.cache.copy_page(source, target)
            elif states is not None:
                states.copy(source, target)
