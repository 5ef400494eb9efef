"""Grouped-query attention over the paged cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from helexa.engine.kernels.attention import attention, attention_definition
from helexa.engine.kernels.placing import Projected
from helexa.engine.kernels.rms_norm import norm_constants, rms_norm
from helexa.engine.kernels.rope import rotate
from helexa.engine.layers.linear import Linear
from helexa.engine.layers.norm import norm_weight

if TYPE_CHECKING:
    from helexa.engine.batch import Batch
    from helexa.engine.cache.kv import LayerCache
    from helexa.engine.checkpoint.weights import Weights
    from helexa.engine.config import ModelConfig
    from helexa.engine.kernels.decoding import Pages
    from helexa.engine.numerics import Numerics


class Attention(nn.Module):
    """Causal attention with RoPE, H query heads on G key/value heads of D dims.

    Eats `q_proj`, `k_proj`, `v_proj`, `o_proj`, and `q_norm`, `k_norm` where the family has them.
    In a ``gated`` one, `q_proj` gives each head a query and a gate for its output, D numbers each.
    """

    gain: Tensor | None
    floor: Tensor | None

    def __init__(self, config: ModelConfig, numerics: Numerics) -> None:
        super().__init__()
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = config.head_dim
        self.turned = config.rope.rotary_dim(config.head_dim)
        self.eps = config.rms_norm_eps
        self.qk_norm = config.qk_norm
        self.prefill = attention if numerics.fused_prefill else attention_definition
        self.decode = attention if numerics.fused_decode else attention_definition
        self.fused = numerics.fused_ops
        self.gated, self.zero_centred = config.gated_attention, config.zero_centred_norms
        wide, narrow = self.heads * self.head_dim, self.kv_heads * self.head_dim
        hidden, bias = config.hidden_size, config.attention_bias
        queries = 2 * wide if self.gated else wide
        self.qkv = Linear(hidden, queries, narrow, narrow, bias=bias, numerics=numerics)
        self.out = Linear(wide, hidden, bias=bias, numerics=numerics)
        self.register_buffer("gain", None)
        self.register_buffer("floor", None)

    def load(self, weights: Weights) -> None:
        """Fill the projections; the norms of q and k become one table [H + G, D]."""
        self.qkv.load(*(weights / f"{name}_proj" for name in "qkv"))
        self.out.load(weights / "o_proj")
        if self.qk_norm:
            q, k = (
                norm_weight(weights / name, self.head_dim, zero_centred=self.zero_centred)
                for name in ("q_norm", "k_norm")
            )
            both = torch.cat((q.expand(self.heads, -1), k.expand(self.kv_heads, -1)))
            self.gain, self.floor = norm_constants(both, self.eps)

    def forward(
        self, x: Tensor, batch: Batch, cache: LayerCache, angles: tuple[Tensor, Tensor]
    ) -> Tensor:
        """x [T, hidden] → [T, hidden]; the new keys and values go to ``cache``."""
        out: Tensor = self.out(self.attend(self.qkv(x), batch, cache, angles))
        return out

    def attend(
        self, y: Tensor, batch: Batch, cache: LayerCache, angles: tuple[Tensor, Tensor]
    ) -> Tensor:
        """What is between the projections: rows of the first [T, …] → of the second [T, H · D]."""
        if self.fused and isinstance(batch.slots, Tensor):
            q, gate = self.placed(y, batch.slots, cache, angles)
        else:
            qk, v, gate = self.split(y)
            if self.gain is not None and self.floor is not None:
                qk = rms_norm(qk, self.gain, self.floor)
            q, k = rotate(qk, *angles).tensor_split((self.heads,), 1)
            cache.write(batch.slots, k, v)
        if batch.pages is not None and batch.steps is not None and not batch.spans:
            rows = paged(q, batch.pages, cache, gate)
        else:
            rows = self.mix(q, batch, cache)
            if gate is not None:
                rows = rows * gate.float().sigmoid_().to(rows.dtype)
        return rows.reshape(len(y), -1)  # a head per key makes some operators' results strided

    def mix(self, q: Tensor, batch: Batch, cache: LayerCache) -> Tensor:
        """Queries [T, H, D] over the cache, one sequence after the other → [T, H, D]."""
        mixed = [
            (self.decode if span.length == 1 else self.prefill)(
                q[span.rows], cache.read(span.slots)
            )
            for span in batch.spans
        ]
        if batch.pages is None or batch.steps is None:
            return mixed[0] if len(mixed) == 1 else torch.cat(mixed)
        rows = torch.empty_like(q, memory_format=torch.contiguous_format)
        singles = batch.steps[0]
        rows[singles] = paged(q[singles], batch.pages, cache, None)
        for span, values in zip(batch.spans, mixed, strict=True):
            rows[span.rows] = values
        return rows

    def placed(
        self, y: Tensor, slots: Tensor, cache: LayerCache, angles: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor | None]:
        """What one kernel makes of projected rows: queries [T, H, D]; and gates, if any."""
        from helexa.engine.kernels.placing_triton import place_on_device  # as for `paged`

        made = Projected(y, self.heads, self.kv_heads, self.gated)
        norm = None
        if self.gain is not None and self.floor is not None:
            norm = self.gain, self.floor
        return place_on_device(made, norm, angles, cache.kv, slots), made.gate

    def split(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Projected rows: queries and keys [T, H + G, D], values [T, G, D], gates [T, H, D]."""
        dim, gate = self.head_dim, None
        if self.gated:
            both, rest = torch.split(y, [2 * self.heads * dim, 2 * self.kv_heads * dim], -1)
            queries, gate = torch.split(both.view(len(y), self.heads, 2 * dim), dim, -1)
            k, v = torch.split(rest.view(len(y), -1, dim), self.kv_heads, 1)
            return torch.cat((queries, k), 1), v, gate
        qk, v = y.view(len(y), -1, dim).tensor_split((self.heads + self.kv_heads,), 1)
        return qk, v, gate


def paged(q: Tensor, pages: Pages, cache: LayerCache, gate: Tensor | None) -> Tensor:
    """One token of each of S sequences, all at once: q and gate [S, H, D] → [S, H, D]."""
    from helexa.engine.kernels.decoding_triton import paged_decode  # not everyone has triton

    return paged_decode(q, cache.kv, pages, gate)
