"""Plain matrices of one shape in one tensor, where a kernel finds each by its number."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from helexa.engine.quant.dense import DenseWeight, fill

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from helexa.engine.quant.dense import DenseFormat
    from helexa.engine.quant.weight import Weight


class DenseStack:
    """A weight format whose ``count`` weights are the entries of one tensor, as they are made.

    ``tensor`` [count, N, K], in the dtype and on the device of ``plain``, is claimed with the first
    of them; it is None where none was made.
    """

    def __init__(self, count: int, plain: DenseFormat) -> None:
        self.count, self.plain = count, plain
        self.used = 0
        self.tensor: Tensor | None = None

    def make(self, parts: Sequence[Tensor]) -> Weight:
        """Stack the matrices [N_i, K] to the next entry."""
        if self.tensor is None:
            shape = self.count, sum(map(len, parts)), parts[0].shape[1]
            self.tensor = torch.empty(shape, dtype=self.plain.dtype, device=self.plain.device)
        entry = self.tensor[self.used]
        self.used += 1
        fill(entry, parts)
        return DenseWeight(entry)

    @property
    def whole(self) -> Tensor | None:
        """The tensor, if all of its entries were made."""
        return self.tensor if self.used == self.count else None
