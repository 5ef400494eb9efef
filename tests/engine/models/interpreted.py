"""Models that take the paths of a GPU; without one, on a CPU, their kernels interpreted."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from helexa.engine.checkpoint.checkpoint import open_checkpoint
from helexa.engine.checkpoint.weights import Weights
from helexa.engine.kernels.experts import Expert, experts_masked
from helexa.engine.layers.delta import GatedDelta
from helexa.engine.layers.experts import Experts, Stacks
from helexa.engine.layers.linear import Linear
from helexa.engine.loading import resolve_numerics, with_triton
from helexa.engine.models.model import Model
from helexa.engine.models.registry import MODELS
from helexa.engine.quant.dense import DenseFormat, DenseWeight, stacked
from helexa.engine.quant.insitu import linear_format
from helexa.engine.quant.on_device import Storable, stored_experts, with_kernels
from helexa.engine.quant.weight import Weight
from tests.engine.models.families import Family, hybrid

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
FEW: dict[str, Any] = {"num_attention_heads": 2, "num_key_value_heads": 1}
BOTH: dict[str, Any] = {
    "num_hidden_layers": 2,
    "layer_types": ["linear_attention", "full_attention"],
    **FEW,
}
FAMILIES = {
    "qwen3": Family("dense", fields={"num_hidden_layers": 2, **FEW}),
    "llama": Family("bias", "llama", {"num_hidden_layers": 2, "attention_bias": True}),
    "moe": Family("moe", "qwen3_moe", {"num_hidden_layers": 1, **FEW}),
    "hybrid": hybrid("hybrid", **BOTH),
    "hybrid moe": hybrid("hybrid", "qwen3_next", **BOTH),
}
"""One of each kind of layer, as small as they may be."""


class AsOnGpu(DenseFormat):
    """Keeps matrices on a CPU as a GPU has them, where its own products want other layouts."""

    __slots__ = ()

    def make(self, parts: Sequence[Tensor]) -> Weight:
        """Stack the matrices [N_i, K] into one."""
        return DenseWeight(stacked(parts, self.dtype, self.device))


def interpreted(
    folder: str | Path, *disabled: str, dtype: str = "float32", quant: str | None = None
) -> Model:
    """The model of a checkpoint with triton's kernels but for the ``disabled`` ones.

    Weights, activations and cache are in ``dtype``; ``quant`` quantises linear layers.
    """
    numerics = with_triton(resolve_numerics(dtype, DEVICE, False, disabled), disabled)
    dense = numerics.plain
    if DEVICE.type == "cpu":
        dense = AsOnGpu(dense.dtype, DEVICE, kernels=False)
    numerics = replace(
        numerics,
        activations=dense.dtype,
        plain=dense,
        linear=linear_format(quant, dense),
        cuda_graphs=False,
    )
    checkpoint = open_checkpoint(folder)
    try:
        model = MODELS[checkpoint.config.model_type](checkpoint.config, numerics)
        model.load(Weights(checkpoint, dtype=dense.dtype, device=DEVICE))
    finally:
        checkpoint.close()
    if DEVICE.type == "cpu":
        for module in model.modules():
            take_kernels(module, disabled)
    return model.to(DEVICE).eval()


def take_kernels(module: nn.Module, disabled: Collection[str]) -> None:
    """Give a layer the kernels that it finds by itself where there is a GPU."""
    stored = "quant_kernels" not in disabled
    if isinstance(module, GatedDelta):
        module.on_device = not {"gdn_fused", "gdn_chunked"}.intersection(disabled)
    elif isinstance(module, Linear) and stored:
        module.weight = as_stored(module.weight)
    elif isinstance(module, Experts) and "moe_fused" not in disabled:
        module.run = experts_masked
        pairs = [(expert.gate_up, expert.down) for expert in module.experts]
        if all(type(weight) is DenseWeight for pair in pairs for weight in pair):
            gate_up, down = ([weight.matrix() for weight in of] for of in zip(*pairs, strict=True))
            module.stacks = Stacks(torch.stack(gate_up), torch.stack(down))
        elif stored:
            module.experts = tuple(Expert(as_stored(up), as_stored(down)) for up, down in pairs)
            module.stored = stored_experts(module.experts)


def as_stored(weight: Weight) -> Weight:
    """The weight with kernels that read it as it is stored, where there are some."""
    return with_kernels(weight) if isinstance(weight, Storable) else weight
