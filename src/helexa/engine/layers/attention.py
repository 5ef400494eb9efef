"""Grouped-query attention over the paged cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from helexa.engine.kernels.attention import attention, attention_definition
from helexa.engine.kernels.rms_norm import norm_constants, rms_norm
from helexa.engine.kernels.rope import rotate
from helexa.engine.layers.linear import Linear

if TYPE_CHECKING:
    from torch import Tensor

    from helexa.engine.batch import Batch
    from helexa.engine.cache.kv import LayerCache
    from helexa.engine.checkpoint.weights import Weights
    from helexa.engine.config import ModelConfig
    from helexa.engine.numerics import Numerics


class Attention(nn.Module):
    """Causal attention with RoPE, H query heads on G key/value heads of D dims.

    Eats `q_proj`, `k_proj`, `v_proj`, `o_proj`, and `q_norm`, `k_norm` where the family has them.
    """

    gain: Tensor | None
    floor: Tensor | None

    def __init__(self, config: ModelConfig, numerics: Numerics) -> None:
        super().__init__()
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = config.head_dim
        self.eps = config.rms_norm_eps
        self.qk_norm = config.qk_norm
        self.prefill = attention if numerics.fused_prefill else attention_definition
        self.decode = attention if numerics.fused_decode else attention_definition
        wide, narrow = self.heads * self.head_dim, self.kv_heads * self.head_dim
        hidden, bias = config.hidden_size, config.attention_bias
        self.qkv = Linear(hidden, wide, narrow, narrow, bias=bias, numerics=numerics)
        self.out = Linear(wide, hidden, bias=bias, numerics=numerics)
        self.register_buffer("gain", None)
        self.register_buffer("floor", None)

    def load(self, weights: Weights) -> None:
        """Fill the projections; the norms of q and k become one table [H + G, D]."""
        self.qkv.load(*(weights / f"{name}_proj" for name in "qkv"))
        self.out.load(weights / "o_proj")
        if self.qk_norm:
            q = (weights / "q_norm").tensor("weight", shape=(self.head_dim,))
            k = (weights / "k_norm").tensor("weight", shape=(self.head_dim,))
            both = torch.cat((q.expand(self.heads, -1), k.expand(self.kv_heads, -1)))
            self.gain, self.floor = norm_constants(both, self.eps)

    def forward(
        self, x: Tensor, batch: Batch, cache: LayerCache, angles: tuple[Tensor, Tensor]
    ) -> Tensor:
        """x [T, hidden] → [T, hidden]; the new keys and values go to ``cache``."""
        qkv = self.qkv(x).view(-1, self.heads + 2 * self.kv_heads, self.head_dim)
        qk, v = qkv.tensor_split((self.heads + self.kv_heads,), 1)
        if self.gain is not None and self.floor is not None:
            qk = rms_norm(qk, self.gain, self.floor)
        q, k = rotate(qk, *angles).tensor_split((self.heads,), 1)
        cache.write(batch.slots, k, v)
        mixed = [
            (self.decode if span.length == 1 else self.prefill)(
                q[span.rows], cache.read(span.slots)
            )
            for span in batch.spans
        ]
        rows = mixed[0] if len(mixed) == 1 else torch.cat(mixed)
        out: Tensor = self.out(rows.view(len(x), -1))
        return out
