"""What every launch of a kernel of ours says, and how many programs it should have."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch

FUSING: Mapping[str, bool] = MappingProxyType({"enable_fp_fusion": True})
"""Products and sums become one operation: said aloud, because triton warns about its default."""


def processors(device: torch.device) -> int:
    """How many programs run side by side."""
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count
