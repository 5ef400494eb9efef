"""All block formats by the names that GGUF files give them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from helexa.engine.quant.blocks.block_type import BlockType
from helexa.engine.quant.blocks.k2_k3 import K2_K3
from helexa.engine.quant.blocks.k4_k5 import K4_K5
from helexa.engine.quant.blocks.k6 import K6
from helexa.engine.quant.blocks.legacy import LEGACY

__all__ = ["BLOCK_TYPES", "BlockType"]

BLOCK_TYPES: Mapping[str, BlockType] = MappingProxyType(
    {type.name: type for type in (*LEGACY, *K2_K3, *K4_K5, *K6)}
)
