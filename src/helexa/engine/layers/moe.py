"""A mixture of experts in place of the dense feed-forward block."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from helexa.engine.layers.experts import Experts
from helexa.engine.layers.mlp import GatedMLP

if TYPE_CHECKING:
    from torch import Tensor

    from helexa.engine.checkpoint.weights import Weights
    from helexa.engine.config import ModelConfig
    from helexa.engine.numerics import Numerics


class MoE(nn.Module):
    """Σ_j share_j · expert_j(x) + sigmoid(shared_gate(x)) · shared(x).

    The last term only where the config has a shared expert. Eats `gate.weight` [E, hidden],
    `experts` (see `Experts`), and `shared_expert`, `shared_expert_gate.weight` [1, hidden]. The two
    gates are plain, in the activations' format, whatever the linears are.
    """

    router: Tensor
    shared_gate: Tensor | None

    def __init__(self, config: ModelConfig, numerics: Numerics) -> None:
        super().__init__()
        moe = config.moe
        assert moe is not None
        self.hidden, self.count, self.top_k = config.hidden_size, moe.experts, moe.top_k
        self.renormalise = moe.norm_topk_prob
        self.experts = Experts(config.hidden_size, moe.size, moe.experts, numerics)
        self.shared = GatedMLP(config, numerics, moe.shared_size) if moe.shared_size else None
        self.register_buffer("router", torch.empty(0))
        self.register_buffer("shared_gate", None)

    def load(self, weights: Weights) -> None:
        """Fill the gates and the experts."""
        self.router = (weights / "gate").tensor("weight", (self.count, self.hidden))
        self.experts.load(weights / "experts")
        if self.shared is not None:
            self.shared.load(weights / "shared_expert")
            gate = weights / "shared_expert_gate"
            self.shared_gate = gate.tensor("weight", (1, self.hidden))

    def forward(self, x: Tensor) -> Tensor:
        """x [T, hidden] → the same shape."""
        out: Tensor = self.experts(x, *self.route(x))
        if self.shared is not None and self.shared_gate is not None:
            opened = F.linear(x, self.shared_gate).float().sigmoid().to(x.dtype)
            out += opened * self.shared(x)
        return out

    def route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The experts of each token and their shares, largest first: [T, k] each.

        Shares are softmax probabilities among all experts, in float32 until they are chosen. Of
        equal ones `torch.topk` chooses, as in the reference.
        """
        likely = F.linear(x, self.router).softmax(-1, dtype=torch.float32)
        shares, chosen = likely.topk(self.top_k, -1)
        if self.renormalise:
            shares = shares / shares.sum(-1, keepdim=True)
        return chosen, shares.to(x.dtype)
