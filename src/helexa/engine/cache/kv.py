"""The memory that holds keys and values of tokens already seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from helexa.engine.cache.state import LayerState, StateCache


@dataclass(frozen=True, slots=True, eq=False)
class LayerCache:
    """One layer's keys (after RoPE, before head repetition) and values.

    ``kv`` [2, G, slots, D] holds both; ``k`` and ``v`` [slots, G, D] are views of its halves.
    """

    kv: Tensor
    k: Tensor
    v: Tensor

    def write(self, slots: slice | Tensor, k: Tensor, v: Tensor) -> None:
        """Store k and v [T, G, D] at ``slots`` [T], converted to the cache's dtype."""
        if isinstance(slots, slice):
            self.k[slots].copy_(k)
            self.v[slots].copy_(v)
            return
        self.k.index_copy_(0, slots, k.to(self.kv.dtype))
        self.v.index_copy_(0, slots, v.to(self.kv.dtype))

    def read(self, slots: slice | Tensor) -> Tensor:
        """Keys and values at ``slots``: [2, G, S, D], a view for a slice, else a copy."""
        if isinstance(slots, slice):
            return self.kv[:, :, slots]
        return self.kv.index_select(2, slots)


class KVCache:
    """Keys and values of all attention layers, in ``num_blocks`` pages of ``block_size`` tokens.

    A token's slot is ``block * block_size + offset``. The memory is claimed here, once, and not
    initialised: a CPU page costs nothing until it is first written. A head's tokens are neighbours
    in memory, and its keys and values too, as a core of the CPU that attends for it reads them.

    ``layers`` has what each layer of the model keeps, in their order: those of ``attention``, and
    between them the recurrent ones of ``states``, if there are any (see `join`).
    """

    def __init__(
        self,
        num_layers: int,
        num_blocks: int,
        block_size: int,
        kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        shape = (num_layers, kv_heads, 2, num_blocks * block_size, head_dim)
        self.memory = torch.empty(shape, dtype=dtype, device=device)
        both = self.memory.transpose(1, 2)
        self.states: StateCache | None = None
        self.attention = tuple(LayerCache(kv, *kv.transpose(1, 2)) for kv in both)
        self.layers: tuple[LayerCache | LayerState, ...] = self.attention

    def join(self, states: StateCache) -> None:
        """Take the states of the recurrent layers in, each in its place among the layers."""
        self.states = states
        keys, recurrent = iter(self.attention), iter(states.layers)
        self.layers = tuple(
            next(keys) if kind == "full_attention" else next(recurrent) for kind in states.kinds
        )

    @property
    def dtype(self) -> torch.dtype:
        """The format keys and values are kept in."""
        return self.memory.dtype

    @property
    def device(self) -> torch.device:
        """Where the memory is."""
        return self.memory.device

    @property
    def nbytes(self) -> int:
        """Bytes of memory claimed."""
        return self.memory.nbytes + (self.states.nbytes if self.states is not None else 0)

    def copy_page(self, source: int, target: int) -> None:
        """Give one page the keys and values of another."""
        size = self.block_size
        both = [self.memory[..., page * size : (page + 1) * size, :] for page in (source, target)]
        both[1].copy_(both[0])
