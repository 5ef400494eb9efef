"""The optimizers: Muon for the hidden matrices, AdamW for the embedding and the norms.

Muon is momentum whose update is replaced by the nearest matrix with orthogonal rows or columns,
found by Newton-Schulz steps: https://kellerjordan.github.io/posts/muon/.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from tools.tiny.team import Team

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonal(update: Tensor, steps: int = 5) -> Tensor:
    """Push the singular values of `update` (R, C) towards one."""
    a, b, c = COEFFICIENTS
    tall = update.shape[0] > update.shape[1]
    x: Tensor = update.T if tall else update
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum with orthogonal updates, for 2-D parameters only; a team shares the matrices out."""

    def __init__(
        self, params: Iterable[Tensor], lr: float, team: Team, momentum: float = 0.95
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "decay": 0.05}
        super().__init__(list(params), defaults)
        self.team = team

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]  # no closure
        """Apply one update."""
        for group in self.param_groups:
            updates = [self._update(i, w, group) for i, w in enumerate(group["params"])]
            self.team.add_up(updates)
            for weight, update in zip(group["params"], updates, strict=True):
                scale = max(1.0, weight.shape[0] / weight.shape[1]) ** 0.5
                weight.mul_(1 - group["lr"] * group["decay"])
                weight.add_(update, alpha=-group["lr"] * scale)

    def _update(self, index: int, weight: Tensor, group: dict[str, Any]) -> Tensor:
        """Return the update of one matrix, or zeros where another process computes it."""
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
        state["momentum"].lerp_(gradient, 1 - group["momentum"])
        if index % self.team.size != self.team.rank:
            return torch.zeros_like(weight)
        return orthogonal(gradient.lerp(state["momentum"], group["momentum"])).contiguous()


def optimizers(
    model: nn.Module, matrix_lr: float, other_lr: float, team: Team
) -> list[torch.optim.Optimizer]:
    """Return Muon over the layers' matrices and AdamW over all else."""
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    for name, weight in model.named_parameters():
        (matrices if ".layers." in name and weight.ndim == 2 else others).append(weight)
    adam = torch.optim.AdamW(others, lr=other_lr, betas=(0.9, 0.98), weight_decay=0.0)
    found: list[torch.optim.Optimizer] = [Muon(matrices, matrix_lr, team), adam]
    for optimizer in found:
        for group in optimizer.param_groups:
            group["top"] = group["lr"]
    return found
