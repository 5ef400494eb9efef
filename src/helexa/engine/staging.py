"""Few numbers between host and device, in as few waits as possible."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def sent(values: Sequence[float], like: Tensor, dtype: torch.dtype) -> Tensor:
    """Numbers of the host where ``like`` is; a GPU gets them while the host goes on."""
    if not like.is_cuda:
        return torch.tensor(values, dtype=dtype, device=like.device)
    return torch.tensor(values, dtype=dtype, pin_memory=True).to(like.device, non_blocking=True)


def received(floats: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Two tensors of one shape, float32 and int64 below 2⁵³, on the host.

    From a GPU in one copy, as float64, which holds both exactly.
    """
    if not floats.is_cuda:
        return floats.cpu(), ids.cpu()
    both = torch.stack((floats.double(), ids.double())).cpu()
    return both[0].float(), both[1].long()
