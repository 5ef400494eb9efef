"""Models on a CPU that take the paths of a GPU, their kernels interpreted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from helexa.engine.checkpoint.checkpoint import open_checkpoint
from helexa.engine.checkpoint.weights import Weights
from helexa.engine.loading import resolve_numerics, with_triton
from helexa.engine.models.model import Model
from helexa.engine.models.registry import MODELS
from tests.engine.models.families import Family, hybrid

FAMILIES = {
    "qwen3": Family("dense", fields={"num_hidden_layers": 2}),
    "llama": Family("bias", "llama", {"num_hidden_layers": 2, "attention_bias": True}),
    "moe": Family("moe", "qwen3_moe", {"num_hidden_layers": 2}),
    "hybrid": hybrid("hybrid", num_hidden_layers=4),
    "hybrid moe": hybrid("hybrid", "qwen3_next", num_hidden_layers=4),
}
"""One of each kind of layer, as small as they may be."""


def interpreted(folder: str | Path, *disabled: str) -> Model:
    """The model of a checkpoint in float32, with triton's kernels but for the ``disabled`` ones."""
    plain = resolve_numerics("float32", torch.device("cpu"), False, disabled)
    numerics = replace(with_triton(plain, disabled), cuda_graphs=False)
    checkpoint = open_checkpoint(folder)
    try:
        model = MODELS[checkpoint.config.model_type](checkpoint.config, numerics)
        model.load(Weights(checkpoint, dtype=torch.float32))
    finally:
        checkpoint.close()
    return model.eval()
