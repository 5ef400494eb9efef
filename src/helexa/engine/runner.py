"""Runs the steps a scheduler plans, on one device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from helexa.engine.batch import build_batch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from helexa.engine.cache.kv import KVCache
    from helexa.engine.models.model import Model


class Runner:
    """A model and the cache it works on. For one thread at a time."""

    def __init__(self, model: Model, cache: KVCache) -> None:
        self.model = model
        self.cache = cache

    @torch.inference_mode()
    def run(self, parts: Sequence[tuple[Sequence[int], int, Sequence[int], bool]]) -> Tensor:
        """Execute one step (see `batch.Part`): → logits [R, V] float32.

        One row for the last position of each part that wants logits, in order; R may be 0.
        """
        batch = build_batch(parts, self.cache.block_size, self.model.device)
        hidden = self.model(batch, self.cache)
        return self.model.logits(hidden.index_select(0, batch.logit_rows))
