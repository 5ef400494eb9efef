"""The activation of a gated MLP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor


def silu_mul(x: Tensor) -> Tensor:
    """silu(gate) · up of a fused gate|up activation.

    x [T, 2N] → [T, N] in x's dtype. Source: SwiGLU, arXiv:2002.05202 §2.
    """
    gate, up = x.chunk(2, -1)
    return F.silu(gate).mul_(up)
