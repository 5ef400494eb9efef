"""What a step's projections become: turned queries, and keys and values in their pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from helexa.engine.kernels.rms_norm import rms_norm
from helexa.engine.kernels.rope import rotate

if TYPE_CHECKING:
    from torch import Tensor


class Projected(NamedTuple):
    """Rows y [T, N] of H query heads, G key heads and G value heads of D numbers each.

    In ``gated`` ones each query head has a gate of D numbers behind it: N = (2H + 2G) · D.
    """

    y: Tensor
    heads: int
    groups: int
    gated: bool

    @property
    def dim(self) -> int:
        """D."""
        return self.y.shape[1] // (self.heads * (2 if self.gated else 1) + 2 * self.groups)

    @property
    def gate(self) -> Tensor | None:
        """The gates [T, H, D], a view, if there are any."""
        if not self.gated:
            return None
        both = self.y[:, : 2 * self.heads * self.dim].view(-1, self.heads, 2, self.dim)
        return both[:, :, 1]

    def split(self) -> tuple[Tensor, Tensor]:
        """Queries and keys [T, H + G, D], and values [T, G, D]."""
        rest = self.y.view(len(self.y), -1, self.dim)
        if not self.gated:
            qk, v = rest.tensor_split((self.heads + self.groups,), 1)
            return qk, v
        queries = rest[:, : 2 * self.heads : 2]
        k, v = rest[:, 2 * self.heads :].chunk(2, 1)
        return torch.cat((queries, k), 1), v


def place_definition(
    made: Projected,
    norm: tuple[Tensor, Tensor] | None,
    angles: tuple[Tensor, Tensor],
    kv: Tensor,
    slots: Tensor,
) -> Tensor:
    """Norm and rotate queries and keys, and store keys and values; → the queries [T, H, D].

    ``norm`` are the constants of `rms_norm`, gain [H + G, D], if there is one; ``angles`` are
    `rotate`'s cos and sin [T, 1, d]; kv [2, G, slots of the cache, D] is written to at ``slots``
    [T] int64, and not for tokens whose slot is negative.
    """
    qk, v = made.split()
    if norm is not None:
        qk = rms_norm(qk, *norm)
    q, k = rotate(qk, *angles).tensor_split((made.heads,), 1)
    kept = slots >= 0
    kv[:, :, slots[kept]] = torch.stack((k, v))[:, kept].transpose(1, 2).to(kv.dtype)
    return q.contiguous()
