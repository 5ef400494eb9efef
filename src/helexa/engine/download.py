"""Tensors of a device on their way to the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float32]
Groups = Sequence[Sequence["Tensor"]]


class Download:
    """Tensors as arrays of float64, which holds ids and logits exactly, in a copy that has begun.

    `wait` waits for that, and not for what the device is told to do after it.
    """

    def __init__(self, groups: Groups) -> None:
        self._groups = groups
        self._arrived: torch.cuda.Event | None = None
        there = host = packed(groups)
        if there.device.type == "cuda":
            host = torch.empty(there.shape, dtype=there.dtype, pin_memory=True)
            host.copy_(there, non_blocking=True)
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch gives no types
            self._arrived.record(torch.cuda.current_stream(there.device))
        self._host = host.numpy()

    def wait(self) -> list[list[Floats]]:
        """The arrays, as the tensors were grouped."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return unpacked(self._host, self._groups)


def fetch(groups: Groups) -> list[list[Floats]]:
    """As a `Download`, of which the device is told nothing else meanwhile: one copy."""
    return unpacked(packed(groups).cpu().numpy(), groups)


def packed(groups: Groups) -> Tensor:
    """What is copied, still on the device."""
    flat = [tensor.flatten().double() for group in groups for tensor in group]
    return torch.cat(flat) if len(flat) > 1 else flat[0]


def unpacked(whole: Floats, groups: Groups) -> list[list[Floats]]:
    """The parts of what was copied, each in its tensor's shape."""
    ends = np.cumsum([tensor.numel() for group in groups for tensor in group])[:-1]
    pieces = iter(np.split(whole, ends))
    return [[next(pieces).reshape(tensor.shape) for tensor in group] for group in groups]
