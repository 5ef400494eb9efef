"""Products of one row with a matrix, and what comes right before or after them in a layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional as F

from helexa.engine.kernels.rms_norm import rms_norm
from helexa.engine.kernels.silu_mul import silu_mul

if TYPE_CHECKING:
    from torch import Tensor


def normed_product_definition(
    x: Tensor, norm: tuple[Tensor, Tensor], weight: Tensor, *, gated: bool = False
) -> Tensor:
    """`rms_norm` of x [1, K] times Wᵀ, W [N, K]: → [1, N] in x's dtype, summed in float32.

    ``norm`` are the operator's constants. ``gated``: W is gate|up of an MLP, and the result is
    silu(gate) · up [1, N / 2].
    """
    y = F.linear(rms_norm(x, *norm), weight)
    return silu_mul(y) if gated else y


def added_product_definition(x: Tensor, weight: Tensor, stream: Tensor) -> None:
    """stream [1, N] += x [1, K] times Wᵀ, W [N, K]: the sum is rounded once."""
    stream.copy_(stream.float() + F.linear(x.float(), weight.float()))
