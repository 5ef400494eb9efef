"""Qwen3: Llama whose queries and keys are RMS-normalised per head before they are rotated.

Reference: transformers' `Qwen3ForCausalLM`; arXiv:2505.09388.
"""

from __future__ import annotations

from helexa.engine.models.llama import Llama


class Qwen3(Llama):
    """As Llama; the q/k norms follow from ``config.qk_norm`` (see `layers.attention`)."""
