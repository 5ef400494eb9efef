"""Models, as OpenAI describes them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def model_object(model_id: str, created_s: int) -> dict[str, Any]:
    """The answer to GET /v1/models/{id}: an id and a time, in seconds since 1970."""
    return {"id": model_id, "object": "model", "created": created_s, "owned_by": "helexa"}


def model_list(models: Iterable[tuple[str, int]]) -> dict[str, Any]:
    """The answer to GET /v1/models, of (id, time) as `model_object` takes them."""
    return {"object": "list", "data": [model_object(*model) for model in models]}
