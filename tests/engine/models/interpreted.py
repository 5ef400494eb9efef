"""Models that take the paths of a GPU; without one, on a CPU, their kernels interpreted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from helexa.engine.checkpoint.checkpoint import open_checkpoint
from helexa.engine.checkpoint.weights import Weights
from helexa.engine.layers.delta import GatedDelta
from helexa.engine.loading import resolve_numerics, with_triton
from helexa.engine.models.model import Model
from helexa.engine.models.registry import MODELS
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


def interpreted(folder: str | Path, *disabled: str) -> Model:
    """The model of a checkpoint in float32, with triton's kernels but for the ``disabled`` ones."""
    plain = resolve_numerics("float32", DEVICE, False, disabled)
    numerics = replace(with_triton(plain, disabled), cuda_graphs=False)
    checkpoint = open_checkpoint(folder)
    try:
        model = MODELS[checkpoint.config.model_type](checkpoint.config, numerics)
        model.load(Weights(checkpoint, dtype=torch.float32, device=DEVICE))
    finally:
        checkpoint.close()
    for module in model.modules():
        if isinstance(module, GatedDelta):
            module.on_device = not {"gdn_fused", "gdn_chunked"}.intersection(disabled)
    return model.to(DEVICE).eval()
