"""Which number format each kind of value has, decided once when a model is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from helexa.engine.quant.dense import DenseFormat
    from helexa.engine.quant.weight import WeightFormat


@dataclass(frozen=True, slots=True)
class Numerics:
    """The formats of one model, and the device they are on.

    ``activations`` is the residual stream's, ``cache`` that of keys and values. ``linear`` stores
    the matrices of attention, MLP and an untied output layer; ``plain`` those that are never
    quantised, embeddings among them.
    """

    device: torch.device
    activations: torch.dtype
    cache: torch.dtype
    plain: DenseFormat
    linear: WeightFormat
