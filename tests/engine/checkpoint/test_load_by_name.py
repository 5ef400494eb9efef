"""A model loaded by its name on a hub: the options reach the download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helexa.engine.loading import load_model
from helexa.errors import CheckpointError


def test_the_download_has_the_token_and_tells_its_progress(
    hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    told: dict[str, tuple[int, int | None]] = {}

    def progress(name: str, done: int, total: int | None) -> None:
        told[name] = (done, total)

    with pytest.raises(CheckpointError):  # what this hub has is complete, but no model
        load_model("org/name", device="cpu", cache_dir=tmp_path, token="t", progress=progress)
    size = len(hub.files["model-1.safetensors"])
    assert told["model-1.safetensors"] == (size, size)
    assert {request[3] for request in hub.requests if request[1].startswith("/api")} == {"Bearer t"}
