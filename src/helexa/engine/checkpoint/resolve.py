"""From a model argument to a folder on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import helexa
from helexa.engine.checkpoint.files import reading
from helexa.engine.checkpoint.formats import check_format
from helexa.engine.checkpoint.reference import (
    BUILTIN_SCHEME,
    DEFAULT_SCHEME,
    Builtin,
    GGUFFile,
    HubId,
    LocalFolder,
    Reference,
    parse_reference,
)
from helexa.engine.checkpoint.table import INDEX
from helexa.errors import InvalidRequest, PreflightError, UnsupportedModel

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
    endpoint: str | None = None,
    progress: Progress | None = None,
    environ: Mapping[str, str] | None = None,
) -> tuple[str, Path]:
    """The id to show and the folder to read; arguments and errors as open_checkpoint's."""
    check_hub_options(revision, cache_dir, offline, token)
    reference = parse_reference(model)
    folder = on_disk(reference)
    if folder is None:
        from helexa.engine.checkpoint.hub import HubAccess, fetch_model  # an HTTP client: slow

        assert isinstance(reference, HubId)
        access = HubAccess.of(
            os.environ if environ is None else environ,
            cache_dir=cache_dir,
            offline=offline,
            token=token,
            endpoint=endpoint,
            progress=progress,
        )
        folder = fetch_model(reference, revision, access)
    return str(reference), folder


def check_hub_options(revision: object, cache_dir: object, offline: object, token: object) -> None:
    """Raise InvalidRequest for an option of a wrong type, also where no hub will be asked."""
    for name, value, kinds, wanted in (
        ("revision", revision, str, "the name of a branch, tag or commit"),
        ("cache_dir", cache_dir, str | os.PathLike | None, "a folder, or None"),
        ("offline", offline, bool, "True or False"),
        ("token", token, str | None, "text, or None"),
    ):
        if not isinstance(value, kinds):
            shown = f"{value!r:.80}" if name != "token" else f"a {type(value).__name__}"
            raise InvalidRequest(f"{name} must be {wanted}, not {shown}", param=name)


def on_disk(reference: Reference) -> Path | None:
    """The folder of a reference that needs no hub, None for one that does."""
    if isinstance(reference, Builtin):
        return builtin_folder(reference)
    if isinstance(reference, LocalFolder):
        with reading(reference.path):
            files = [path.name for path in reference.path.iterdir()]
        if INDEX not in files:  # shards may lie in folders below
            check_format(str(reference), files)
        return reference.path
    if isinstance(reference, GGUFFile):
        raise UnsupportedModel(
            f"{reference} is a GGUF file", hint="give a model with safetensors weights"
        )
    if reference.scheme not in (None, DEFAULT_SCHEME):
        known = (DEFAULT_SCHEME, f"{BUILTIN_SCHEME}:helexa/tiny")
        raise PreflightError(
            "unknown_scheme",
            f"unknown scheme {reference.scheme!r} in model {str(reference)!r}",
            available=known,
            hint=f"known: {', '.join(known)}",
        )
    return None


def builtin_folder(reference: Builtin) -> Path:
    """Where the package keeps a model it ships."""
    return Path(helexa.__file__).parent / "builtin" / reference.name.partition("/")[2]
