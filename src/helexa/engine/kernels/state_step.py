"""One new token of several sequences, for layers that keep a state: where each one's state is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from helexa.engine.kernels.causal_conv import causal_conv
from helexa.engine.kernels.delta_rule import delta_step

if TYPE_CHECKING:
    from torch import Tensor

    from helexa.engine.hybrid_config import DeltaConfig

L2_EPS = 1e-6
"""What is added to a key's or a query's squared length."""


def conv_step_definition(x: Tensor, states: Tensor, slots: Tensor, weight: Tensor) -> Tensor:
    """`causal_conv` of one token of each of S sequences, whose last inputs are moved on.

    x [S, C], states [slots of the cache, K − 1, C], slots [S] int64, weight [K, C] float32 → [S, C]
    in x's dtype. A sequence with a negative slot gives zeros and changes nothing.
    """
    out = torch.zeros_like(x)
    for s, slot in enumerate(slots.tolist()):
        if slot >= 0:
            row, states[slot] = causal_conv(x[s : s + 1], states[slot], weight)
            out[s] = row[0]
    return out


def delta_step_definition(
    qkv: Tensor,
    gates: tuple[Tensor, Tensor],
    states: Tensor,
    slots: Tensor,
    shape: DeltaConfig,
) -> Tensor:
    """`delta_step` of one token of each of S sequences, whose states are changed.

    qkv [S, C] are the convolution's outputs: Hk queries and as many keys of Dk numbers, each to be
    divided by its length, queries by √Dk, too; then Hv values of Dv. Value head j goes with key
    head ⌊j·Hk/Hv⌋, or j mod Hk if ``shape.tiled``. gates are g and beta [S, Hv], states [slots of
    the cache, Hv, Dk, Dv] float32, slots [S] int64 → [S, Hv, Dv] float32. A sequence with a
    negative slot gives zeros and changes nothing.
    """
    g, beta = gates
    sizes = [shape.key_size, shape.key_size, shape.value_size]
    q, k, v = (part.float() for part in torch.split(qkv, sizes, -1))
    q, k = (part.view(len(qkv), shape.key_heads, -1) for part in (q, k))
    q, k = (x / (x.square().sum(-1, keepdim=True) + L2_EPS).sqrt() for x in (q, k))
    v = v.view(len(qkv), shape.value_heads, -1)
    out = torch.zeros_like(v)
    for s, slot in enumerate(slots.tolist()):
        for j in range(shape.value_heads if slot >= 0 else 0):
            i = j % shape.key_heads if shape.tiled else j * shape.key_heads // shape.value_heads
            query, state = q[s, i] * shape.key_dim**-0.5, states[slot, j]
            out[s, j], states[slot, j] = delta_step(
                query, k[s, i], v[s, j], g[s, j], beta[s, j], state
            )
    return out
