"""How a model computes: the format of each kind of value, and which fast paths it takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from helexa.engine.quant.dense import DenseFormat
    from helexa.engine.quant.weight import WeightFormat


@dataclass(frozen=True, slots=True)
class Numerics:
    """The formats of one model, and the device they are on.

    ``activations`` is the residual stream's, ``cache`` that of keys and values (see also
    `loading.with_room`). ``linear`` stores the matrices of attention, MLP and an untied output
    layer; ``plain`` those that are never quantised, embeddings among them. ``fused_prefill`` and
    ``fused_decode`` say whether attention uses torch's fused operator for several new tokens and
    for one, or its written-out definition; ``chunked_delta`` and ``fused_delta`` whether the delta
    rule takes the tokens of a prompt 64 at a time, and changes a single sequence's state in place;
    ``fused_experts``, whether each expert is run once for all of its tokens.

    The rest are kernels of triton: ``fused_ops`` for norms, activations and what comes between
    projection and attention, ``fused_rows`` for single rows to be multiplied in one go with their
    norms, activations and additions; ``paged_decode`` for attention of all single tokens at once;
    ``cuda_graphs`` replays whole steps of them, and with ``look_ahead`` the next one is launched
    before the tokens of the last are known.
    """

    device: torch.device
    activations: torch.dtype
    cache: torch.dtype
    plain: DenseFormat
    linear: WeightFormat
    fused_prefill: bool = True
    fused_decode: bool = True
    chunked_delta: bool = True
    fused_delta: bool = True
    fused_experts: bool = True
    fused_ops: bool = False
    fused_rows: bool = False
    paged_decode: bool = False
    cuda_graphs: bool = False
    look_ahead: bool = False

    @property
    def on_device(self) -> bool:
        """Whether kernels find a step's sequences through tables on the device."""
        return self.fused_ops or self.paged_decode

    @property
    def narrow_cache(self) -> bool:
        """Whether keys and values may be too large for the cache's format: float16 of a CPU."""
        return self.cache == torch.float16 != self.activations
