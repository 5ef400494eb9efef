"""Decoder layers on a CPU, for a few rows: compiled functions, and what is left between them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, cast

import torch

from helexa.engine.kernels.few_rows import FewRows, Plan, few_rows
from helexa.engine.kernels.layer_steps import (
    Closing,
    Heads,
    Matrix,
    Opening,
    attend,
    close_layer,
    open_attention,
    open_delta,
)
from helexa.engine.layers.attention import Attention
from helexa.engine.layers.experts import Experts
from helexa.engine.layers.fused import Step, constants
from helexa.engine.layers.linear import Linear
from helexa.engine.layers.mlp import GatedMLP
from helexa.engine.quant.stack import parts_of
from helexa.engine.quant.weight import Compilable, Traceable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor, nn

    from helexa.engine.batch import Batch, Span
    from helexa.engine.cache.kv import KVCache, LayerCache
    from helexa.engine.cache.state import LayerState
    from helexa.engine.kernels.compiled import Compiler, Kernel
    from helexa.engine.layers.decoder import DecoderLayer
    from helexa.engine.layers.delta import GatedDelta

log = logging.getLogger(__name__)

SLOTS = 4099
"""Of a cache that stands for those of any size: no other number of a model's."""
CONTEXT = 131
KEPT = (1, 2)
"""The arguments of `attend` that are the cache's."""


@dataclass(frozen=True, slots=True, eq=False)
class CompiledLayer:
    """A layer for few rows: what is in front of its mixer and what is behind.

    ``attend`` is for one token over the tokens before it; None where the mixer does not attend.
    """

    layer: DecoderLayer
    opening: FewRows
    closing: FewRows
    attend: Kernel | None

    def __call__(self, x: Tensor, step: Step, cache: LayerCache | LayerState) -> Tensor:
        """What the layer computes: x [T, hidden] → the same shape."""
        if self.attend is None:
            mixed = self.moved(x, step.batch, cast("LayerState", cache))
        else:
            mixed = self.attended(x, step, cast("LayerCache", cache))
        x, *hidden = self.closing(x, mixed)
        return x + self.layer.mlp(*hidden) if hidden else x

    @property
    def most(self) -> int:
        """Rows up to which this is faster than the layer as it is."""
        return min(self.opening.most, self.closing.most)

    def compiled_modules(self) -> set[nn.Module]:
        """Whose weights need no kernels of their own."""
        mixer, mlp = self.layer.mixer, self.layer.mlp
        return {*mixer.modules(), *(mlp.modules() if isinstance(mlp, GatedMLP) else ())}

    def want(self) -> None:
        """Have its kernels compiled."""
        self.opening.want()
        self.closing.want()
        if self.attend is not None:
            self.attend.wanted = True

    def attended(self, x: Tensor, step: Step, cache: LayerCache) -> Tensor:
        """Rows [T, H · D] of attention, one sequence after the other."""
        q, k, v, *gate = self.opening(x, *step.angles)
        cache.write(step.batch.slots, k, v)
        rows = [self.of_sequence(q, span, cache) for span in step.batch.spans]
        mixed = rows[0] if len(rows) == 1 else torch.cat(rows)
        return mixed * gate[0] if gate else mixed

    def of_sequence(self, q: Tensor, span: Span, cache: LayerCache) -> Tensor:
        """A sequence's rows of queries [T, H · D], of all that is in ``cache``: → [L, H · D]."""
        kv, mine = cache.read(span.slots), q[span.rows]
        if span.length == 1 and self.layer.numerics.fused_decode:
            assert self.attend is not None
            return cast("Tensor", self.attend(mine, *kv))
        mixer = cast("Attention", self.layer.mixer)
        way = mixer.decode if span.length == 1 else mixer.prefill
        return way(mine.view(span.length, mixer.heads, -1), kv).flatten(1)

    def moved(self, x: Tensor, batch: Batch, cache: LayerState) -> Tensor:
        """Rows [T, …] of the delta rule, whose states move on."""
        mixer = cast("GatedDelta", self.layer.mixer)
        made = mixer.arranged(*self.opening(x))
        return mixer.mixed(made, batch, cache).reshape(len(x), -1)


class FewRowLayers(NamedTuple):
    """The layers of a model, those that cannot be compiled as they are.

    It is what is fastest for up to ``most`` rows.
    """

    layers: tuple[CompiledLayer | DecoderLayer, ...]
    most: int


def run_compiled(few: FewRowLayers, x: Tensor, step: Step, cache: KVCache) -> Tensor:
    """All layers one after the other: x [T, hidden] → the same shape."""
    for layer, kept in zip(few.layers, cache.layers, strict=True):
        if isinstance(layer, CompiledLayer):
            x = layer(x, step, kept)
        else:
            x = layer(x, step.batch, kept, step.angles)
    return x


def compile_layers(
    layers: Iterable[nn.Module], compiler: Compiler, cache: torch.dtype
) -> FewRowLayers | None:
    """The layers, with kernels that ``compiler`` is still to make where they can have such.

    None if no layer can. ``cache`` is the format of keys and values. Logs a warning of layers that
    stay as they are.
    """
    plain = [cast("DecoderLayer", layer) for layer in layers]
    made = [compiled_layer(layer, compiler, cache) for layer in plain]
    found = [layer for layer in made if layer is not None]
    for layer in found:
        layer.want()
    if len(found) < len(made):
        first = next(index for index, layer in enumerate(made) if layer is None)
        name, kind = untraceable(plain[first])
        log.warning(
            "`compile` leaves %d of %d layers as they are: the matrix layers.%d.%s is kept as %s, "
            "which compiled functions cannot read",
            len(made) - len(found),
            len(made),
            first,
            name,
            kind,
        )
    if not found:
        return None
    both = zip(made, plain, strict=True)
    most = min(layer.most for layer in found)
    return FewRowLayers(tuple(few or layer for few, layer in both), most)


def untraceable(layer: DecoderLayer) -> tuple[str, str]:
    """The first matrix that keeps a layer from being compiled: its place, what it is kept as."""
    return next(
        (name, type(part).__name__)
        for name, module in layer.named_modules()
        if isinstance(module, Linear)
        for part in parts_of(module.weight)
        if not isinstance(part, Traceable)
    )


def compiled_layer(
    layer: DecoderLayer, compiler: Compiler, cache: torch.dtype
) -> CompiledLayer | None:
    """One of them; None if a matrix of it cannot be compiled."""
    closing = closed(layer, compiler)
    if closing is None:
        return None
    mixer = layer.mixer
    if not isinstance(mixer, Attention):
        opening = opened_delta(layer, compiler)
        if opening is None:
            return None
        return CompiledLayer(layer, opening, closing, None)
    return opened(layer, mixer, closing, compiler, cache)


def opened(
    layer: DecoderLayer, mixer: Attention, closing: FewRows, compiler: Compiler, cache: torch.dtype
) -> CompiledLayer | None:
    """A layer that attends."""
    found = traced(mixer.qkv)
    if found is None:
        return None
    matrix, held = found
    norms = () if mixer.gain is None or mixer.floor is None else (mixer.gain, mixer.floor)
    heads = Heads(mixer.heads, mixer.kv_heads, mixer.head_dim, mixer.gated)
    form = Opening(matrix, heads, bool(norms), mixer.qkv.bias is not None)
    tensors = (*constants(layer.input_norm), *held, *norms)

    def example(rows: int) -> list[Tensor]:
        x, angles = torch.empty(rows, mixer.qkv.inputs), torch.empty(2, rows, 1, mixer.turned)
        return [x, *angles]

    opening = few_rows(compiler, open_attention, (form,), example, tensors, plan_of(matrix))
    kv = torch.empty(2, mixer.kv_heads, SLOTS, mixer.head_dim, dtype=cache, device="meta")
    one = [torch.empty(1, mixer.heads * mixer.head_dim), *kv[:, :, :CONTEXT]]
    return CompiledLayer(layer, opening, closing, compiler.kernel(attend, (heads,), one, KEPT))


def opened_delta(layer: DecoderLayer, compiler: Compiler) -> FewRows | None:
    """The projections in front of the delta rule; None if they cannot be compiled."""
    mixer = cast("GatedDelta", layer.mixer)
    inputs, gates = traced(mixer.inputs), traced(mixer.gates)
    if inputs is None or gates is None:
        return None
    tensors = (*constants(layer.input_norm), *inputs[1], *gates[1])

    def example(rows: int) -> list[Tensor]:
        return [torch.empty(rows, mixer.hidden)]

    matrices = inputs[0], gates[0]
    return few_rows(compiler, open_delta, (matrices,), example, tensors, plan_of(*matrices))


def closed(layer: DecoderLayer, compiler: Compiler) -> FewRows | None:
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

    def example(rows: int) -> list[Tensor]:
        return [torch.empty(rows, sum(out.outputs)), torch.empty(rows, out.inputs)]

    return few_rows(compiler, close_layer, (form,), example, tensors, plan_of(*matrices))


def plan_of(*matrices: Matrix) -> Plan:
    """What suits the products with each of these: the fewest kernels, the shortest loops."""
    plans = [recipe.plan for matrix in matrices for recipe in matrix]
    fewest = min((plan.sizes for plan in plans), key=len)
    sums, most = (min(values) for values in zip(*(plan[1:] for plan in plans), strict=True))
    return Plan(fewest, sums, most)


def traced(linear: Linear) -> tuple[Matrix, tuple[Tensor, ...]] | None:
    """A linear layer's recipes, and their tensors with its bias; None if it has none."""
    parts = parts_of(linear.weight)
    if not all(isinstance(part, Traceable) for part in parts):
        return None
    recipes = [cast("Traceable", part).traced for part in parts]
    tensors = [tensor for recipe in recipes for tensor in recipe.tensors]
    bias = () if linear.bias is None else (linear.bias,)
    return tuple(recipe.recipe for recipe in recipes), (*tensors, *bias)


def want_kernels(modules: Iterable[nn.Module]) -> None:
    """Have the kernels compiled that the weights of these have of their own."""
    for module in modules:
        if isinstance(module, Experts):
            found = [weight for one in module.experts for weight in (one.gate_up, one.down)]
        else:
            found = [weight] if (weight := getattr(module, "weight", None)) is not None else []
        for part in (part for weight in found for part in parts_of(weight)):
            if isinstance(part, Compilable):
                part.few.want()
