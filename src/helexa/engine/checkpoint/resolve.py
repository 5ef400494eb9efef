"""From a model argument to a folder on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import helexa
from helexa.engine.checkpoint.reference import (
    Builtin,
    GGUFFile,
    LocalFolder,
    parse_reference,
)
from helexa.errors import PreflightError, UnsupportedModel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from helexa.engine.checkpoint.files import Progress


def resolve_folder(
    model: str | Path,
    *,
    revision: str = "main",
    cache_dir: str | Path | None = None,
    offline: bool = False,
    token: str | None = None,
    progress: Progress | None = None,
    environ: Mapping[str, str] | None = None,
) -> tuple[str, Path]:
    """The id to show and the folder to read; errors as open_checkpoint's."""
    reference = parse_reference(model)
    if isinstance(reference, Builtin):
        return str(reference), builtin_folder(reference)
    if isinstance(reference, LocalFolder):
        return str(reference), reference.path
    if isinstance(reference, GGUFFile):
        raise UnsupportedModel(
            f"{reference} is a GGUF file", hint="give a model with safetensors weights"
        )
    raise PreflightError("repo_fetch_failed", f"cannot fetch {reference}", hint="give a folder")


def builtin_folder(reference: Builtin) -> Path:
    """Where the package keeps a model it ships."""
    return Path(helexa.__file__).parent / "builtin" / reference.name.partition("/")[2]
