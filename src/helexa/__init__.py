"""helexa: open-weight language models on hardware you own.

Names are imported when first used, so that ``import helexa`` costs nothing and needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "LLM": "helexa.llm",
    "AsyncLLM": "helexa.async_llm",
    "Generation": "helexa.answers",
    "ModelInfo": "helexa.loaded",
    "SamplingParams": "helexa.engine.params",
    "load_model": "helexa.engine.loading",
    "Event": "helexa.text.events",
    "Reasoning": "helexa.text.events",
    "Text": "helexa.text.events",
    "ToolCall": "helexa.text.events",
    "Finish": "helexa.text.events",
    "Usage": "helexa.text.events",
    "HelexaError": "helexa.errors",
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'helexa' has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)


if TYPE_CHECKING:
    from helexa.answers import Generation as Generation
    from helexa.async_llm import AsyncLLM as AsyncLLM
    from helexa.engine.loading import load_model as load_model
    from helexa.engine.params import SamplingParams as SamplingParams
    from helexa.errors import HelexaError as HelexaError
    from helexa.llm import LLM as LLM
    from helexa.loaded import ModelInfo as ModelInfo
    from helexa.text.events import Event as Event
    from helexa.text.events import Finish as Finish
    from helexa.text.events import Reasoning as Reasoning
    from helexa.text.events import Text as Text
    from helexa.text.events import ToolCall as ToolCall
    from helexa.text.events import Usage as Usage
