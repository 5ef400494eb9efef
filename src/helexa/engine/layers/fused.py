"""Decoder layers on a GPU: each residual addition is one kernel with the norm behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from torch import Tensor, nn

    from helexa.engine.batch import Batch
    from helexa.engine.cache.kv import KVCache
    from helexa.engine.layers.decoder import DecoderLayer
    from helexa.engine.layers.norm import RMSNorm


def run_fused(
    layers: nn.ModuleList,
    last: RMSNorm,
    x: Tensor,
    batch: Batch,
    cache: KVCache,
    angles: tuple[Tensor, Tensor],
) -> Tensor:
    """All layers one after the other, and the ``last`` norm: x [T, hidden] → the same shape.

    The residual stream stays in ``x``, which is overwritten.
    """
    from helexa.engine.kernels.norm_triton import add_rms_norm_on_device  # not everyone has triton

    change: Tensor | None = None
    for module, kept in zip(layers, cache.layers, strict=True):
        layer = cast("DecoderLayer", module)
        normed = add_rms_norm_on_device(x, change, *constants(layer.input_norm))
        change = layer.mixer(normed, batch, kept, angles)
        normed = add_rms_norm_on_device(x, change, *constants(layer.mlp_norm))
        change = layer.mlp(normed)
    return add_rms_norm_on_device(x, change, *constants(last))


def constants(norm: RMSNorm) -> tuple[Tensor, Tensor]:
    """What the operator multiplies by, and its floor (see `norm_constants`)."""
    return norm.gain, norm.floor
