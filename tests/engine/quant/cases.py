"""Formats of quantised checkpoints to be tested, and how parts of such are written."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from helexa.engine.checkpoint.checkpoint import SafetensorsCheckpoint
from helexa.engine.checkpoint.weights import Weights
from tools.quantised import (
    AWQ,
    FLOAT,
    FP8,
    GPTQ,
    Case,
    Writer,
    awq,
    compressed,
    float8,
    gptq,
    int8,
    packed,
)

SHAPE = {
    "model_type": "qwen3",
    "vocab_size": 8,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "max_position_embeddings": 8,
}


def act_order(columns: int, group: int) -> np.ndarray:
    """Groups of columns that were quantised in a random order."""
    order = np.random.default_rng(columns).permutation(columns)
    return np.argsort(order) // group


def ordered(write: Callable[..., Any], **options: Any) -> Writer:
    """The same with activation order."""
    return lambda matrix: write(matrix, group_of=act_order(matrix.shape[1], 32), **options)


def per_row(matrix: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    return float8(matrix, (1, matrix.shape[1]), "weight_scale")


CASES = {
    "fp8": Case({**FP8, "weight_block_size": [64, 32]}, partial(float8, block=(64, 32))),
    "fp8-ragged": Case({**FP8, "weight_block_size": [48, 40]}, partial(float8, block=(48, 40))),
    "fp8-bf16": Case(
        {**FP8, "weight_block_size": [32, 32]},
        partial(float8, block=(32, 32), dtype=torch.bfloat16),
        plain=(),
    ),
    "fp8-tensor": Case(FP8, partial(float8, block=None, name="weight_scale")),
    "awq": Case(AWQ, awq),
    "awq-head": Case({**AWQ, "group_size": 64}, partial(awq, group=64), plain=()),
    "awq-row": Case({**AWQ, "group_size": -1}, partial(awq, group=-1)),
    "gptq": Case(GPTQ, gptq),
    "gptq-head": Case({**GPTQ, "lm_head": True}, gptq, plain=()),
    "gptq-sym": Case({**GPTQ, "sym": True}, partial(gptq, sym=True)),
    "gptq-order": Case({**GPTQ, "desc_act": True}, ordered(gptq)),
    "gptq-row": Case({**GPTQ, "group_size": -1}, partial(gptq, group=-1)),
    "gptq-v2": Case({**GPTQ, "checkpoint_format": "gptq_v2"}, partial(gptq, version=2)),
    "gptq-2": Case({**GPTQ, "bits": 2}, partial(gptq, bits=2)),
    "gptq-3": Case({**GPTQ, "bits": 3}, partial(gptq, bits=3)),
    "gptq-8": Case({**GPTQ, "bits": 8}, partial(gptq, bits=8)),
    "gptq-8-order": Case({**GPTQ, "bits": 8, "desc_act": True}, ordered(gptq, bits=8)),
    "packed-4": Case(
        compressed("pack-quantized", num_bits=4, strategy="group", group_size=32), packed
    ),
    "packed-4-zeros": Case(
        compressed("pack-quantized", num_bits=4, strategy="group", group_size=32, symmetric=False),
        partial(packed, sym=False),
    ),
    "packed-4-order": Case(
        compressed("pack-quantized", num_bits=4, strategy="group", group_size=32, actorder="group"),
        ordered(packed),
    ),
    "packed-4-row": Case(
        compressed("pack-quantized", num_bits=4, strategy="channel", symmetric=False),
        partial(packed, group=-1, sym=False, plain_zeros=True),
    ),
    "packed-8": Case(
        compressed("pack-quantized", num_bits=8, strategy="channel"),
        partial(packed, bits=8, group=-1),
    ),
    "packed-5": Case(
        compressed("pack-quantized", num_bits=5, strategy="group", group_size=64, symmetric=False),
        partial(packed, bits=5, group=64, sym=False),
    ),
    "int8": Case(compressed("int-quantized", strategy="channel"), int8),
    "int8-zeros": Case(
        compressed("naive-quantized", strategy="channel", symmetric=False), partial(int8, sym=False)
    ),
    "int8-group": Case(
        compressed("int-quantized", strategy="group", group_size=32), partial(int8, group=32)
    ),
    "float-row": Case(compressed("float-quantized", strategy="channel", **FLOAT), per_row),
    "float-tensor": Case(
        compressed("float-quantized", strategy="tensor", **FLOAT),
        partial(float8, block=None, name="weight_scale"),
    ),
    "float-block": Case(
        compressed("float-quantized", strategy="block", block_structure=[48, 40], **FLOAT),
        partial(float8, block=(48, 40), name="weight_scale"),
    ),
    "float-group": Case(
        compressed("naive-quantized", strategy="group", group_size=32, **FLOAT),
        partial(float8, block=(1, 32), name="weight_scale"),
    ),
}


def place(folder: Path, config: Mapping[str, Any], **modules: Mapping[str, Tensor]) -> Weights:
    """The root of a checkpoint of these modules, which is no whole model."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**SHAPE, "quantization_config": dict(config)}))
    tensors = {
        f"{module}.{name}": tensor
        for module, parts in modules.items()
        for name, tensor in parts.items()
    }
    save_file(tensors, folder / "model.safetensors")
    return Weights(SafetensorsCheckpoint("test", folder))
