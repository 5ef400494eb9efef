"""The memory of recurrent layers: what a sequence has come to, in a size that never grows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from helexa.engine.hybrid_config import DeltaConfig, LayerType


@dataclass(frozen=True, slots=True, eq=False)
class LayerState:
    """One layer's states, a slot for each sequence.

    ``conv`` [slots, K − 1, C] are the last inputs of the convolution, ``recurrent`` [slots, Hv, Dk,
    Dv] is float32.
    """

    conv: Tensor
    recurrent: Tensor

    def clear(self, slot: int) -> None:
        """Make a slot that of a sequence of which nothing was seen."""
        self.conv[slot].zero_()
        self.recurrent[slot].zero_()


class StateCache:
    """States for ``slots`` sequences of the linear layers of ``kinds``, claimed, not initialised.

    What a slot holds is undefined until a sequence begins there.
    """

    def __init__(
        self,
        kinds: Sequence[LayerType],
        slots: int,
        shape: DeltaConfig,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.kinds = kinds
        self.slots = slots
        num_layers = kinds.count("linear_attention")
        inputs = (num_layers, slots, shape.kernel - 1, shape.channels)
        self.conv = torch.empty(inputs, dtype=dtype, device=device)
        states = (num_layers, slots, shape.value_heads, shape.key_dim, shape.value_dim)
        self.recurrent = torch.empty(states, dtype=torch.float32, device=device)
        self.layers = tuple(map(LayerState, self.conv, self.recurrent))

    @property
    def nbytes(self) -> int:
        """Bytes of memory claimed."""
        return self.conv.nbytes + self.recurrent.nbytes

    def copy(self, source: int, target: int) -> None:
        """Give one slot the exact state of another."""
        for memory in (self.conv, self.recurrent):
            memory[:, target].copy_(memory[:, source])
