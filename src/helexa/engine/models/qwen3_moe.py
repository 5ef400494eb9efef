"""Qwen3-MoE: Qwen3 whose MLPs are mixtures of experts, but for the layers its config excepts.

Reference: transformers' `Qwen3MoeForCausalLM`; arXiv:2505.09388.
"""

from __future__ import annotations

from helexa.engine.models.llama import Llama


class Qwen3Moe(Llama):
    """As Llama; which layers have experts follows from ``config.moe`` (see `layers.moe`)."""
