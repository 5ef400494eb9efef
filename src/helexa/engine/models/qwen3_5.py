"""Qwen3.5: the layers of Qwen3-Next with a dense MLP, or with experts.

Reference: transformers' `Qwen3_5ForCausalLM` and `Qwen3_5MoeForCausalLM`.
"""

from __future__ import annotations

from helexa.engine.models.llama import Llama


class Qwen35(Llama):
    """As Llama, with zero-centred norms; `layers.decoder` chooses what a layer is made of."""
