"""Each token through the few experts its router chose, summed by the router's shares.

Shapes: T tokens, E experts, k of them chosen per token, hidden sizes H and I.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from helexa.engine.kernels.silu_mul import silu_mul

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from helexa.engine.quant.weight import Weight


@dataclass(frozen=True, slots=True, eq=False)
class Expert:
    """A gated MLP: gate_up [2I, H] with the rows of gate first, down [H, I]."""

    gate_up: Weight
    down: Weight

    @property
    def nbytes(self) -> int:
        return self.gate_up.nbytes + self.down.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        """x [T, H] → the same shape."""
        return self.down.matmul(silu_mul(self.gate_up.matmul(x)))


def experts_definition(
    x: Tensor, chosen: Tensor, shares: Tensor, experts: Sequence[Expert]
) -> Tensor:
    """y_t = Σ_j shares[t, j] · expert_e(x_t) with e = chosen[t, j], one token and expert at a time.

    x [T, H], chosen [T, k] integers, shares [T, k] in x's dtype → [T, H] in x's dtype, summed in
    float32. Source: arXiv:1701.06538 §2.
    """
    out = torch.zeros_like(x, dtype=torch.float32)
    for token, row in enumerate(chosen.tolist()):
        for place, expert in enumerate(row):
            out[token] += shares[token, place] * experts[expert](x[token : token + 1])[0]
    return out.to(x.dtype)


def experts_grouped(x: Tensor, chosen: Tensor, shares: Tensor, experts: Sequence[Expert]) -> Tensor:
    """`experts_definition` with each expert run once, on all of its tokens.

    Only matrices of chosen experts are read. The host learns the choice, so a GPU would be waited
    for. Whatever else is in a batch, a token's terms are summed in the order of its choice.
    """
    tokens, k = chosen.shape
    if tokens == 1:
        pairs = torch.cat([experts[expert](x) for expert in chosen[0].tolist()])
    else:
        order = chosen.flatten().argsort(stable=True)
        counts = torch.bincount(chosen.flatten(), minlength=len(experts)).tolist()
        groups = torch.split(x[order // k], counts)
        pairs = torch.empty((tokens * k, x.shape[1]), dtype=x.dtype, device=x.device)
        done = [experts[e](rows) for e, rows in enumerate(groups) if len(rows)]
        pairs[order] = torch.cat(done)
    return weighted_sum(pairs, shares)


def experts_masked(x: Tensor, chosen: Tensor, shares: Tensor, experts: Sequence[Expert]) -> Tensor:
    """`experts_definition` with every expert run on all tokens, and what was not chosen left out.

    The host does not learn the choice, so a GPU is not waited for; the arithmetic is that of all
    experts. A token's terms are summed in float32, in the order of the experts.
    """
    out = torch.zeros_like(x, dtype=torch.float32)
    for number, expert in enumerate(experts):
        meant = chosen == number
        share = (shares * meant).sum(1, keepdim=True)
        # not by a share of 0: a product that nobody asked for may be infinite
        out += torch.where(meant.any(1, keepdim=True), share * expert(x), 0)
    return out.to(x.dtype)


def weighted_sum(pairs: Tensor, shares: Tensor) -> Tensor:
    """Σ_j shares[t, j] · pairs[t · k + j]: pairs [T · k, H], shares [T, k] → [T, H]."""
    return (pairs.view(*shares.shape, -1) * shares[..., None]).sum(1)


def tile_plan(chosen: Tensor, experts: int, rows: int) -> tuple[Tensor, Tensor]:
    """Who computes what, as a kernel asks: chosen [T, k] → order [P] and tiles [N, 3], int32.

    Made on the device, without the host learning the choice. A choice of ``experts`` means nobody.
    ``order`` has the pairs t · k + j
    sorted by expert. A tile is (expert, first, end): up to ``rows`` places of the order, from
    ``first`` and before ``end``, that belong to one expert. N is what the worst choice needs; of
    the tiles that this one leaves over, first ≥ end.
    """
    flat = chosen.flatten()
    order = flat.argsort(stable=True)
    ids = torch.arange(experts + 1, device=flat.device, dtype=flat.dtype)
    starts = torch.searchsorted(flat[order], ids)  # [E + 1], the last one P
    needed = (starts.diff() + rows - 1) // rows
    ends = needed.cumsum(0)  # the tiles of expert e are ends[e] - needed[e] … ends[e] - 1
    tile = torch.arange(len(flat) // rows + min(experts, len(flat)), device=flat.device)
    expert = torch.searchsorted(ends, tile, right=True).clamp_(max=experts - 1)
    first = starts[expert] + (tile - ends[expert] + needed[expert]) * rows
    return order.int(), torch.stack((expert, first, starts[expert + 1]), 1).int()
