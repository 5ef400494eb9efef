"""Decoder layers on a GPU, with as few kernels as they can be put in."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

from helexa.engine.layers.attention import Attention
from helexa.engine.layers.mlp import GatedMLP
from helexa.engine.quant.dense import DenseWeight

if TYPE_CHECKING:
    from torch import Tensor, nn

    from helexa.engine.batch import Batch
    from helexa.engine.cache.kv import KVCache, LayerCache
    from helexa.engine.cache.state import LayerState
    from helexa.engine.layers.decoder import DecoderLayer
    from helexa.engine.layers.linear import Linear
    from helexa.engine.layers.norm import RMSNorm
    from helexa.engine.layers.rope import Rotary


class Step(NamedTuple):
    """What all layers of a step share: its batch, and cos and sin of its positions."""

    batch: Batch
    angles: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, batch: Batch, rotary: Rotary) -> Step:
        """What `Rotary` makes of a batch's positions, by a kernel."""
        from helexa.engine.kernels.angles_triton import angles_on_device  # not everyone has triton

        return cls(batch, angles_on_device(batch.positions, rotary.frequencies, rotary.factor))


def run_fused(
    layers: nn.ModuleList, last: RMSNorm, x: Tensor, step: Step, cache: KVCache
) -> Tensor:
    """All layers one after the other, and the ``last`` norm: x [T, hidden] → the same shape.

    The residual stream stays in ``x``, which is overwritten.
    """
    change: Tensor | None = None
    for module, kept in zip(layers, cache.layers, strict=True):
        layer = cast("DecoderLayer", module)
        change = mix(layer, x, change, step, kept)
        change = feed_forward(layer, x, change)
    return normed(x, change, last)


def mix(
    layer: DecoderLayer,
    x: Tensor,
    change: Tensor | None,
    step: Step,
    kept: LayerCache | LayerState,
) -> Tensor | None:
    """The first half of a layer; ``change`` is still to be added to x, as is what is returned.

    A change is [T, hidden], or what `Linear.splits` makes.
    """
    mixer = layer.mixer
    if not isinstance(mixer, Attention):
        out: Tensor = mixer(normed(x, change, layer.input_norm), step.batch, kept, step.angles)
        return out
    weights = plain(mixer.qkv, mixer.out)
    if weights is None or len(x) > 1 or not layer.numerics.fused_rows:
        y = mixer.qkv(normed(x, change, layer.input_norm))
        rows = mixer.attend(y, step.batch, cast("LayerCache", kept), step.angles)
        return mixer.out.splits(rows)
    from helexa.engine.kernels.one_row_triton import added_product, normed_product

    add(x, change)
    y = normed_product(x, constants(layer.input_norm), weights[0])
    attended = mixer.attend(y, step.batch, cast("LayerCache", kept), step.angles)
    added_product(attended, weights[1], x)
    return None


def feed_forward(layer: DecoderLayer, x: Tensor, change: Tensor | None) -> Tensor | None:
    """The second half of a layer, like `mix`."""
    mlp = layer.mlp
    if not isinstance(mlp, GatedMLP):
        out: Tensor = mlp(normed(x, change, layer.mlp_norm))
        return out
    weights = plain(mlp.gate_up, mlp.down)
    if weights is None or len(x) > 1 or not layer.numerics.fused_rows:
        return mlp.down.splits(mlp.act(mlp.gate_up(normed(x, change, layer.mlp_norm))))
    from helexa.engine.kernels.one_row_triton import added_product, normed_product

    add(x, change)
    middle = normed_product(x, constants(layer.mlp_norm), weights[0], gated=True)
    added_product(middle, weights[1], x)
    return None


def plain(first: Linear, second: Linear) -> tuple[Tensor, Tensor] | None:
    """The matrices of two layers, if kernels may multiply with them as they are."""
    one, other = first.weight, second.weight
    if type(one) is not DenseWeight or type(other) is not DenseWeight:
        return None
    return (one.tensor, other.tensor) if first.bias is None and second.bias is None else None


def add(x: Tensor, change: Tensor | None) -> None:
    """x += change."""
    if change is not None and change.ndim == 3:
        from helexa.engine.kernels.joining_triton import joined  # not everyone has triton

        change = joined(change, x.dtype)
    if change is not None:
        x += change


def normed(x: Tensor, change: Tensor | None, norm: RMSNorm) -> Tensor:
    """x += change, and the norm of that."""
    from helexa.engine.kernels.norm_triton import add_rms_norm_on_device  # not everyone has triton

    return add_rms_norm_on_device(x, change, *constants(norm))


def constants(norm: RMSNorm) -> tuple[Tensor, Tensor]:
    """What the operator multiplies by, and its floor (see `norm_constants`)."""
    return norm.gain, norm.floor
