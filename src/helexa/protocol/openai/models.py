"""The list of models."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def model_list(models: Iterable[tuple[str, int]]) -> dict[str, Any]:
    """The answer to GET /v1/models; each model is an id and a time, in seconds since 1970."""
    data = [
        {"id": model_id, "object": "model", "created": created, "owned_by": "helexa"}
        for model_id, created in models
    ]
    return {"object": "list", "data": data}
