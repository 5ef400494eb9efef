"""Configurations that a test writes, and what a gateway says of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helexa.errors import ConfigError
from helexa.gateway.config_layers import Loaded, load_config

NONE = "neurons = []\n"
URL = "an absolute http or https URL without user, query and fragment"


def load(
    tmp_path: Path, text: str = NONE, environ: dict[str, str] | None = None, **options: Any
) -> Loaded:
    file = tmp_path / "gateway.toml"
    file.write_text(text)
    return load_config(file, environ=environ or {}, options=options)


def problems(
    tmp_path: Path, text: str, environ: dict[str, str] | None = None, **options: Any
) -> list[str]:
    """The lines that a start would end with, without the part they share."""
    with pytest.raises(ConfigError) as refusal:
        load(tmp_path, text, environ, **options)
    prefix = f"failed to load config from '{tmp_path / 'gateway.toml'}': "
    lines = str(refusal.value).splitlines()
    assert all(line.startswith(prefix) for line in lines)
    return [line.removeprefix(prefix) for line in lines]


def keys(*rows: str) -> str:
    """A file with these keys."""
    return NONE + "".join(f"[[entitlements.keys]]\n{row}\n" for row in rows)
