"""Qwen3-Next: three layers of the gated delta rule for one of gated attention, all with experts.

Reference: transformers' `Qwen3NextForCausalLM`; arXiv:2412.06464.
"""

from __future__ import annotations

from helexa.engine.models.llama import Llama


class Qwen3Next(Llama):
    """As Llama, with zero-centred norms; `layers.decoder` chooses what a layer is made of."""
