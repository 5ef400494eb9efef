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
    """A weight format whose weights are the entries of one tensor ``shape``, as they are made.

    ``tensor`` [count, N, K], in the dtype and on the device of ``plain``, is claimed with the first
    of them; it is None where none was made. What is only a part of an entry, because the rest of it
    is stored in another format, is kept by itself: the tensor is never whole then.
    """

    def __init__(self, shape: tuple[int, int, int], plain: DenseFormat) -> None:
        self.shape, self.plain = shape, plain
        self.used = 0
        self.tensor: Tensor | None = None

    def make(self, parts: Sequence[Tensor]) -> Weight:
        """Stack the matrices [N_i, K] to the next entry."""
        if (sum(map(len, parts)), parts[0].shape[1]) != self.shape[1:]:
            return self.plain.make(parts)
        if self.tensor is None:
            plain = self.plain
            self.tensor = torch.empty(self.shape, dtype=plain.dtype, device=plain.device)
        entry = self.tensor[self.used]
        self.used += 1
        fill(entry, parts)
        return DenseWeight(entry)

    @property
    def whole(self) -> Tensor | None:
        """The tensor, if all of its entries were made."""
        return self.tensor if self.used == self.shape[0] else None
