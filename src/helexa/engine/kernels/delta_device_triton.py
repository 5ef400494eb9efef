"""What a layer of the gated delta rule runs on a GPU, behind its projections."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from helexa.engine.kernels.causal_conv_triton import causal_conv_on_device
from helexa.engine.kernels.delta_chunks_triton import Spans, chunked_on_device
from helexa.engine.kernels.delta_rule_triton import delta_step_on_device
from helexa.engine.kernels.gated_norm_triton import gated_norm_on_device

if TYPE_CHECKING:
    from torch import Tensor

    from helexa.engine.cache.state import LayerState

__all__ = ["Constants", "gated_norm_on_device", "prompts", "steps"]


class Constants(NamedTuple):
    """A layer's: conv [K, C], rate and bias [Hv], all float32, and the order of its value heads."""

    conv: Tensor
    rate: Tensor
    bias: Tensor
    tiled: bool


def steps(
    qkv: Tensor,
    gates: Tensor,
    places: tuple[slice | Tensor, slice | Tensor],
    constants: Constants,
    cache: LayerState,
    out: Tensor,
) -> None:
    """One token of each of R sequences, two launches: writes their rows of out [T, Hv, Dv].

    qkv [T, C] before the convolution, gates [T, 2, Hv]; ``places`` are rows and state slots.
    """
    rows, slots = (index(place, qkv.device) for place in places)
    mixed = causal_conv_on_device(qkv, constants.conv, cache.conv, rows, slots)
    rates = constants.rate, constants.bias
    both = rows, slots
    delta_step_on_device(mixed, gates, rates, both, cache.recurrent, out, tiled=constants.tiled)


def prompts(
    qkv: Tensor,
    gates: tuple[Tensor, Tensor],
    spans: tuple[Tensor, int],
    constants: Constants,
    cache: LayerState,
    out: Tensor,
) -> None:
    """Several tokens of each of P sequences, four launches: writes their rows of out [T, Hv, Dv].

    qkv [T, C] before the convolution, g and β [T, Hv] float32; ``spans`` are first rows, state
    slots and lengths [3, P], and the largest of the lengths.
    """
    (starts, slots, lengths), longest = spans
    found = Spans(starts, slots, lengths, longest)
    mixed = causal_conv_on_device(
        qkv, constants.conv, cache.conv, starts, slots, lengths, longest=longest
    )
    chunked_on_device(mixed, gates, found, cache.recurrent, out, tiled=constants.tiled)


def index(places: slice | Tensor, device: torch.device) -> Tensor:
    """Places as a tensor [R] on the device."""
    if isinstance(places, slice):
        return torch.arange(places.start, places.stop, device=device)
    return places
