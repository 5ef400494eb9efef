"""Rotary frequencies of every type against the reference implementation's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from helexa.engine.config import ModelConfig
from helexa.engine.layers.rope import Rotary

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}
ROPES: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 2.5},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "yarn": YARN,
    "yarn-untruncated": {**YARN, "truncate": False},
    "yarn-betas": {**YARN, "beta_fast": 16.0, "beta_slow": 2.0},
    "yarn-attention-factor": {**YARN, "attention_factor": 0.8},
    "yarn-mscale": {**YARN, "mscale": 0.707, "mscale_all_dim": 1.0},
}


@pytest.mark.parametrize("head_dim", [16, 128])
@pytest.mark.parametrize("theta", [1e4, 1e6])
@pytest.mark.parametrize("name", ROPES)
def test_e011_angles_are_the_reference_s(name: str, theta: float, head_dim: int) -> None:
    config = LlamaConfig(
        hidden_size=4 * head_dim,
        num_attention_heads=4,
        head_dim=head_dim,
        max_position_embeddings=16384,
        rope_parameters={**ROPES[name], "rope_theta": theta},
    )
    reference = LlamaRotaryEmbedding(config)
    ours_config = ModelConfig.from_dict(config.to_dict(), "test")
    ours = Rotary(ours_config.rope, ours_config.head_dim)
    torch.testing.assert_close(ours.frequencies, reference.inv_freq, atol=0, rtol=1e-6)
    assert ours.factor == pytest.approx(reference.attention_scaling, rel=1e-9)
    positions = torch.tensor([0, 1, 77, 5000])
    cos, sin = reference(torch.zeros(1), positions[None])
    our_cos, our_sin = ours(positions)
    half = head_dim // 2
    torch.testing.assert_close(our_cos[:, 0], cos[0], atol=2e-3, rtol=0)
    torch.testing.assert_close(our_sin[:, 0, half:], sin[0, :, half:], atol=2e-3, rtol=0)
    torch.testing.assert_close(our_sin[:, 0, :half], -sin[0, :, :half], atol=2e-3, rtol=0)
