"""Which class runs which `model_type`."""

from __future__ import annotations

from types import MappingProxyType

from helexa.engine.models.llama import Llama
from helexa.engine.models.qwen3 import Qwen3
from helexa.engine.models.qwen3_moe import Qwen3Moe

MODELS = MappingProxyType({"llama": Llama, "qwen3": Qwen3, "qwen3_moe": Qwen3Moe})
