"""How large the keys and values of a layer can become, from its weights alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from helexa.engine.layers.norm import norm_weight

if TYPE_CHECKING:
    from torch import Tensor

    from helexa.engine.checkpoint.weights import Weights
    from helexa.engine.config import ModelConfig

PIECE_ELEMENTS = 2**15
"""A few rows at a time: large matrices made between the weights would leave holes in memory."""


def largest_key_or_value(weights: Weights, gain: Tensor, config: ModelConfig) -> float:
    """A bound on |key| and |value| that no input of the attention at ``weights`` can pass.

    Its input is x̂ ∘ gain, where gain [hidden] is an RMSNorm's weight · √hidden and ‖x̂‖₂ ≤ 1. RoPE
    mixes two numbers without making the pair longer, then multiplies by yarn's factor.
    """
    bias = config.attention_bias
    if config.qk_norm:
        norm = norm_weight(
            weights / "k_norm", config.head_dim, zero_centred=config.zero_centred_norms
        )
        key = math.sqrt(config.head_dim) * norm.abs().max().item()
    else:
        key = math.sqrt(2) * largest_output(weights / "k_proj", gain, bias=bias)
    factor = config.rope.attention_factor if config.rope.rope_type == "yarn" else 1.0
    return max(key * factor, largest_output(weights / "v_proj", gain, bias=bias))


def largest_output(weights: Weights, gain: Tensor, *, bias: bool) -> float:
    """The bound max ‖wᵢ ∘ gain‖₂ + |bᵢ| of a linear layer's outputs (Cauchy and Schwarz)."""
    matrix = weights.take("weight", None).to(gain.device)
    few = max(1, PIECE_ELEMENTS // matrix.shape[1])
    pieces = [torch.linalg.vector_norm(rows * gain, dim=-1) for rows in torch.split(matrix, few)]
    outputs = torch.cat(pieces)
    if bias:
        outputs += weights.take("bias", None).to(outputs).abs()
    return float(outputs.max())
