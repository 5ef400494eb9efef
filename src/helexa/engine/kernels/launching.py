"""What every launch of a kernel of ours says."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

FUSING: Mapping[str, bool] = MappingProxyType({"enable_fp_fusion": True})
"""Products and sums become one operation: said aloud, because triton warns about its default."""
