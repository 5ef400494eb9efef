"""Decoder layers on a CPU, for few rows: two compiled functions each, and what is between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, cast

import torch

from helexa.engine.kernels.layer_steps import (
    Closing,
    Matrix,
    Opening,
    attend,
    close_layer,
    open_attention,
    open_delta,
)
from helexa.engine.layers.attention import Attention
from helexa.engine.layers.mlp import GatedMLP
from helexa.engine.quant.stack import StackedWeight
from helexa.engine.quant.weight import Traceable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor, nn

    from helexa.engine.batch import Batch, Span
    from helexa.engine.cache.kv import KVCache, LayerCache
    from helexa.engine.cache.state import LayerState
    from helexa.engine.kernels.compiled import Compiler, Kernel
    from helexa.engine.layers.decoder import DecoderLayer
    from helexa.engine.layers.delta import GatedDelta
    from helexa.engine.layers.linear import Linear
    from helexa.engine.layers.norm import RMSNorm
    from helexa.engine.quant.weight import Weight

ROWS = (1,)
"""Steps of so many rows are compiled."""
SLOTS = 4099
"""Of a cache that stands for those of any size: no other number of a model's."""
CONTEXT = 131


class Bound(NamedTuple):
    """Kernels by their number of rows, and the tensors that each is given behind its arguments."""

    kernels: dict[int, Kernel]
    tensors: tuple[Tensor, ...]

    def __call__(self, *arguments: Tensor) -> tuple[Tensor, ...]:
        """→ what the function returns, in a tuple."""
        found = self.kernels[len(arguments[0])](*arguments, *self.tensors)
        return tuple(found) if isinstance(found, tuple | list) else (found,)


@dataclass(frozen=True, slots=True, eq=False)
class CompiledLayer:
    """A decoder layer whose matrices a compiler can read; ``attend`` is for contexts of any length.

    Without ``whole``, its MLP is run as it is.
    """

    layer: DecoderLayer
    opening: Bound
    closing: Bound
    attend: Kernel | None
    whole: bool

    def __call__(
        self,
        x: Tensor,
        batch: Batch,
        cache: LayerCache | LayerState,
        angles: tuple[Tensor, Tensor],
    ) -> Tensor:
        """What the layer computes: x [T, hidden] → the same shape."""
        if self.layer.attends:
            q, k, v, *gate = self.opening(x, *angles)
            kept = cast("LayerCache", cache)
            kept.write(batch.slots, k, v)
            rows = [self.attended(q[span.rows], span, kept) for span in batch.spans]
            mixed = rows[0] if len(rows) == 1 else torch.cat(rows)
        else:
            mixer = cast("GatedDelta", self.layer.mixer)
            made = mixer.arranged(*self.opening(x))
            mixed, gate = mixer.mixed(made, batch, cast("LayerState", cache)), []
        x, *hidden = self.closing(x, mixed.reshape(len(x), -1), *gate)
        return x if self.whole else x + self.layer.mlp(*hidden)

    def attended(self, q: Tensor, span: Span, cache: LayerCache) -> Tensor:
        """Queries [L, H, D] of one sequence → [L, H, D]."""
        kv = cache.read(span.slots)
        if span.length > 1 or self.attend is None:
            mixer = cast("Attention", self.layer.mixer)
            return (mixer.decode if span.length == 1 else mixer.prefill)(q, kv)
        return cast("Tensor", self.attend(q, kv[0], kv[1]))


def compile_layers(
    layers: Iterable[nn.Module], compiler: Compiler, cache: torch.dtype
) -> tuple[CompiledLayer, ...] | None:
    """The layers with kernels that ``compiler`` is still to make; None if one cannot have them.

    ``cache`` is the format of keys and values.
    """
    made = []
    for module in layers:
        layer = cast("DecoderLayer", module)
        opening = opened(layer, compiler)
        closing = closed(layer, compiler)
        if opening is None or closing is None:
            return None
        whole = isinstance(layer.mlp, GatedMLP)
        attention = attending(layer.mixer, compiler, cache) if layer.attends else None
        made.append(CompiledLayer(layer, opening, closing, attention, whole))
    return tuple(made)


def run_compiled(
    layers: tuple[CompiledLayer, ...],
    x: Tensor,
    batch: Batch,
    angles: tuple[Tensor, Tensor],
    cache: KVCache,
) -> Tensor:
    """All layers one after the other: x [T, hidden] → the same shape, T one of ROWS."""
    for layer, kept in zip(layers, cache.layers, strict=True):
        x = layer(x, batch, kept, angles)
    return x


def opened(layer: DecoderLayer, compiler: Compiler) -> Bound | None:
    """A layer's norm and the projections of its mixer; None if these cannot be compiled."""
    mixer, norm = layer.mixer, constants(layer.input_norm)
    if not isinstance(mixer, Attention):
        inputs, gates = traced(mixer.inputs), traced(mixer.gates)
        if inputs is None or gates is None:
            return None
        tensors = (*norm, *inputs[1], *gates[1])
        kernels = {
            rows: compiler.kernel(
                open_delta, ((inputs[0], gates[0]),), [torch.empty(rows, mixer.hidden), *tensors]
            )
            for rows in ROWS
        }
        return Bound(kernels, tensors)
    found = traced(mixer.qkv)
    if found is None:
        return None
    matrix, held = found
    norms = () if mixer.gain is None or mixer.floor is None else (mixer.gain, mixer.floor)
    biased, normed = mixer.qkv.bias is not None, bool(norms)
    form = Opening(matrix, mixer.heads, mixer.kv_heads, mixer.gated, normed, biased)
    tensors = (*norm, *held, *norms)
    kernels = {}
    for rows in ROWS:
        angles = torch.empty(2, rows, 1, mixer.turned)
        example = [torch.empty(rows, mixer.qkv.inputs), *angles, *tensors]
        kernels[rows] = compiler.kernel(open_attention, (form,), example)
    return Bound(kernels, tensors)


def closed(layer: DecoderLayer, compiler: Compiler) -> Bound | None:
    """What comes behind a layer's mixer; None if that cannot be compiled."""
    mixer, mlp = layer.mixer, layer.mlp
    dense = mlp if isinstance(mlp, GatedMLP) else None
    linears = [mixer.out, *((dense.gate_up, dense.down) if dense is not None else ())]
    found = [one for linear in linears if (one := traced(linear)) is not None]
    if len(found) < len(linears):
        return None
    matrices = [matrix for matrix, _ in found]
    out, *rest = (tensors for _, tensors in found)
    pair = (matrices[1], matrices[2]) if dense is not None else None
    gated = isinstance(mixer, Attention) and mixer.gated
    biased = (mixer.out.bias is not None, dense is not None and dense.down.bias is not None)
    form = Closing(matrices[0], pair, gated, biased)
    tensors = (*out, *constants(layer.mlp_norm), *(tensor for part in rest for tensor in part))
    kernels = {}
    for rows in ROWS:
        x, mixed = torch.empty(rows, sum(mixer.out.outputs)), torch.empty(rows, mixer.out.inputs)
        gate = []
        if isinstance(mixer, Attention) and mixer.gated:
            gate = [torch.empty(rows, mixer.heads, mixer.head_dim)]
        kernels[rows] = compiler.kernel(close_layer, (form,), [x, mixed, *gate, *tensors])
    return Bound(kernels, tensors)


def attending(mixer: object, compiler: Compiler, cache: torch.dtype) -> Kernel | None:
    """Attention of one token over a cache of this format, of any size."""
    assert isinstance(mixer, Attention)
    groups, dim = mixer.kv_heads, mixer.head_dim
    kv = torch.empty(groups, 2, SLOTS, dim, dtype=cache)[:, :, :CONTEXT].transpose(0, 1)
    q = torch.empty(1, mixer.heads, dim)
    return compiler.kernel(attend, (groups,), [q, kv[0], kv[1]], dynamic=True)


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
