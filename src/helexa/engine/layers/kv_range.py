"""How large the keys and values of a layer can become, from its weights alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from helexa.engine.layers.norm import norm_weight
from helexa.engine.quant.stack import matrix_rows
from helexa.engine.quant.stored import recognised

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from helexa.engine.checkpoint.weights import Weights
    from helexa.engine.config import ModelConfig
    from helexa.engine.layers.linear import Linear

PIECE_ELEMENTS = 2**15
"""A few rows at a time: large matrices made between the weights would leave holes in memory."""
QUANTISED_ROWS = 64
"""Fewer at a time would have weights expand some of them again and again."""


def largest_key_or_value(weights: Weights, gain: Tensor, config: ModelConfig, qkv: Linear) -> float:
    """A bound on |key| and |value| that no input of the attention at ``weights`` can pass.

    Its input is x̂ ∘ gain, where gain [hidden] is an RMSNorm's weight · √hidden and ‖x̂‖₂ ≤ 1. RoPE
    mixes two numbers without making the pair longer, then multiplies by yarn's factor. ``qkv`` is
    the loaded layer, whose last two parts give keys and values.
    """
    if config.qk_norm:
        norm = norm_weight(
            weights / "k_norm", config.head_dim, zero_centred=config.zero_centred_norms
        )
        key = math.sqrt(config.head_dim) * norm.abs().max().item()
    else:
        key = math.sqrt(2) * largest_output(weights / "k_proj", qkv, -2, gain)
    factor = config.rope.attention_factor if config.rope.rope_type == "yarn" else 1.0
    return max(key * factor, largest_output(weights / "v_proj", qkv, -1, gain))


def largest_output(weights: Weights, layer: Linear, part: int, gain: Tensor) -> float:
    """The bound max ‖wᵢ ∘ gain‖₂ + |bᵢ| of one of a linear layer's outputs (Cauchy and Schwarz)."""
    rows = matrix_pieces(weights, layer, part)
    outputs = torch.cat([torch.linalg.vector_norm(few.to(gain.device) * gain, dim=-1)
                         for few in rows])  # fmt: skip
    if layer.has_bias:
        outputs += weights.take("bias", None).to(outputs).abs()
    return float(outputs.max())


def matrix_pieces(weights: Weights, layer: Linear, part: int) -> Iterator[Tensor]:
    """A few rows at a time of a part of a layer's matrix, which is at ``weights``.

    Plain ones come from the checkpoint, quantised ones as they were loaded.
    """
    few = max(1, PIECE_ELEMENTS // layer.inputs)
    if recognised(weights) is None and layer.numerics.linear is layer.numerics.plain:
        yield from torch.split(weights.take("weight", None), few)
        return
    few = max(QUANTISED_ROWS, few)
    count = layer.outputs[part]
    first = sum(layer.outputs[:part])
    for start in range(first, first + count, few):
        yield matrix_rows(layer.weight, start, min(start + few, first + count))
