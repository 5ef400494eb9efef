"""Decoder layers on a CPU, for one token: compiled functions, and what is left between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, cast

import torch

from helexa.engine.kernels.layer_steps import (
    Closing,
    Heads,
    Matrix,
    Opening,
    Places,
    close_layer,
    mix_by_attention,
    open_delta,
)
from helexa.engine.layers.attention import Attention
from helexa.engine.layers.mlp import GatedMLP
from helexa.engine.quant.stack import StackedWeight
from helexa.engine.quant.weight import Traceable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor, nn

    from helexa.engine.batch import Batch
    from helexa.engine.cache.kv import KVCache, LayerCache
    from helexa.engine.cache.state import LayerState
    from helexa.engine.kernels.compiled import Compiler, Kernel
    from helexa.engine.layers.decoder import DecoderLayer
    from helexa.engine.layers.delta import GatedDelta
    from helexa.engine.layers.linear import Linear
    from helexa.engine.layers.norm import RMSNorm
    from helexa.engine.quant.weight import Weight

SLOTS = 4099
"""Of a cache that stands for those of any size: no other number of a model's."""
CONTEXT = 131
PLACES = (3, 4, 5, 6)
"""Behind x and two angles; they are the cache's."""


class Step(NamedTuple):
    """What all layers of a step share."""

    batch: Batch
    angles: tuple[Tensor, Tensor]


class Bound(NamedTuple):
    """A kernel and the tensors that it is given behind its arguments."""

    kernel: Kernel
    tensors: tuple[Tensor, ...]

    def __call__(self, *arguments: Tensor) -> tuple[Tensor, ...]:
        return cast("tuple[Tensor, ...]", self.kernel(*arguments, *self.tensors))


@dataclass(frozen=True, slots=True, eq=False)
class CompiledLayer:
    """A layer whose ``opening`` is all of its attention, or what the delta rule begins with."""

    layer: DecoderLayer
    opening: Bound
    closing: Bound

    def __call__(self, x: Tensor, step: Step, cache: LayerCache | LayerState) -> Tensor:
        """What the layer computes: x [1, hidden] → the same shape."""
        mix = self.attended if self.layer.attends else self.moved
        x, *hidden = self.closing(x, mix(x, step, cache))
        return x + self.layer.mlp(*hidden) if hidden else x

    def attended(self, x: Tensor, step: Step, cache: LayerCache | LayerState) -> Tensor:
        """Rows [1, H · D] of attention over what is cached, and over x itself."""
        kept = cast("LayerCache", cache)
        (k, v), new = kept.read(earlier(step.batch)), kept.kv[:, :, newest(step.batch)]
        return self.opening(x, *step.angles, k, v, new[0], new[1])[0]

    def moved(self, x: Tensor, step: Step, cache: LayerCache | LayerState) -> Tensor:
        """Rows [1, …] of the delta rule, whose state moves on."""
        mixer = cast("GatedDelta", self.layer.mixer)
        made = mixer.arranged(*self.opening(x))
        return mixer.mixed(made, step.batch, cast("LayerState", cache)).reshape(1, -1)


def is_one_step(batch: Batch) -> bool:
    """Whether this is one token behind others, which is what is compiled."""
    return len(batch.spans) == len(batch.token_ids) == 1 and batch.spans[0].context > 0


def earlier(batch: Batch) -> slice | Tensor:
    """The slots of the tokens in front of the new one."""
    slots = batch.spans[0].slots
    return slice(slots.start, slots.stop - 1) if isinstance(slots, slice) else slots[:-1]


def newest(batch: Batch) -> int:
    """The slot of the new token."""
    slots = batch.slots
    return cast("int", slots.start) if isinstance(slots, slice) else int(slots[0])


def run_compiled(
    layers: tuple[CompiledLayer, ...], x: Tensor, step: Step, cache: KVCache
) -> Tensor:
    """All layers one after the other: x [1, hidden] → the same shape."""
    for layer, kept in zip(layers, cache.layers, strict=True):
        x = layer(x, step, kept)
    return x


def compile_layers(
    layers: Iterable[nn.Module], compiler: Compiler, cache: torch.dtype
) -> tuple[CompiledLayer, ...] | None:
    """The layers with kernels that ``compiler`` is still to make; None if one cannot have them.

    ``cache`` is the format of keys and values.
    """
    made: list[CompiledLayer] = []
    for module in layers:
        layer = cast("DecoderLayer", module)
        attends = isinstance(layer.mixer, Attention)
        opening = opened(layer, compiler, cache) if attends else opened_delta(layer, compiler)
        closing = closed(layer, compiler)
        if opening is None or closing is None:
            return None
        made.append(CompiledLayer(layer, opening, closing))
    return tuple(made)


def opened(layer: DecoderLayer, compiler: Compiler, cache: torch.dtype) -> Bound | None:
    """A layer's attention; None if its projection cannot be compiled."""
    mixer = cast("Attention", layer.mixer)
    found = traced(mixer.qkv)
    if found is None:
        return None
    matrix, held = found
    norms = () if mixer.gain is None or mixer.floor is None else (mixer.gain, mixer.floor)
    heads = Heads(mixer.heads, mixer.kv_heads, mixer.head_dim, mixer.gated)
    form = Opening(matrix, heads, bool(norms), mixer.qkv.bias is not None)
    tensors = (*constants(layer.input_norm), *held, *norms)
    x, angles = torch.empty(1, mixer.qkv.inputs), torch.empty(2, 1, 1, mixer.turned)
    example = [x, *angles, *places_of(heads, cache), *tensors]
    return Bound(compiler.kernel(mix_by_attention, (form,), example, PLACES), tensors)


def places_of(heads: Heads, cache: torch.dtype) -> Places:
    """What stands for keys and values in a cache of any size."""
    kv = torch.empty(4, heads.groups, SLOTS, heads.dim, dtype=cache, device="meta")
    k, v, new_k, new_v = kv
    return Places(k[:, :CONTEXT], v[:, :CONTEXT], new_k[:, CONTEXT], new_v[:, CONTEXT])


def opened_delta(layer: DecoderLayer, compiler: Compiler) -> Bound | None:
    """The projections in front of the delta rule; None if they cannot be compiled."""
    mixer = cast("GatedDelta", layer.mixer)
    inputs, gates = traced(mixer.inputs), traced(mixer.gates)
    if inputs is None or gates is None:
        return None
    tensors = (*constants(layer.input_norm), *inputs[1], *gates[1])
    example = [torch.empty(1, mixer.hidden), *tensors]
    return Bound(compiler.kernel(open_delta, ((inputs[0], gates[0]),), example), tensors)


def closed(layer: DecoderLayer, compiler: Compiler) -> Bound | None:
    """What comes behind a layer's mixer; None if that cannot be compiled."""
    out, mlp = layer.mixer.out, layer.mlp
    dense = mlp if isinstance(mlp, GatedMLP) else None
    linears = [out, *((dense.gate_up, dense.down) if dense is not None else ())]
    found = [one for linear in linears if (one := traced(linear)) is not None]
    if len(found) < len(linears):
        return None
    matrices = [matrix for matrix, _ in found]
    first, *rest = (tensors for _, tensors in found)
    biased = (out.bias is not None, dense is not None and dense.down.bias is not None)
    form = Closing(matrices[0], (matrices[1], matrices[2]) if dense is not None else None, biased)
    behind = (tensor for part in rest for tensor in part)
    tensors = (*first, *constants(layer.mlp_norm), *behind)
    example = [torch.empty(1, sum(out.outputs)), torch.empty(1, out.inputs), *tensors]
    return Bound(compiler.kernel(close_layer, (form,), example), tensors)


def traced(linear: Linear) -> tuple[Matrix, tuple[Tensor, ...]] | None:
    """A linear layer's recipes, and their tensors with its bias; None if it has none."""
    parts = parts_of(linear.weight)
    if not all(isinstance(part, Traceable) for part in parts):
        return None
    recipes = [cast("Traceable", part).traced() for part in parts]
    tensors = [tensor for recipe in recipes for tensor in recipe.tensors]
    bias = () if linear.bias is None else (linear.bias,)
    return tuple(recipe.recipe for recipe in recipes), (*tensors, *bias)


def parts_of(weight: Weight) -> tuple[Weight, ...]:
    """The weights that one consists of."""
    return weight.parts if isinstance(weight, StackedWeight) else (weight,)


def constants(norm: RMSNorm) -> tuple[Tensor, Tensor]:
    """What the operator multiplies by, and its floor (see `norm_constants`)."""
    return norm.gain, norm.floor
