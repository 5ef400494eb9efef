"""From a model argument to a folder, or a GGUF file, on this machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import helexa
from helexa.engine.checkpoint.files import reading
from helexa.engine.checkpoint.formats import check_format, choose_gguf, detect_format
from helexa.engine.checkpoint.gguf_folder import gguf_files
from helexa.engine.checkpoint.reference import (
    BUILTIN_SCHEME,
    DEFAULT_SCHEME,
    Builtin,
    GGUFFile,
    HubId,
    LocalFolder,
    Named,
    Reference,
    Variant,
    parse_reference,
)
from helexa.engine.checkpoint.table import INDEX
from helexa.errors import InvalidRequest, PreflightError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from helexa.engine.checkpoint.files import Progress


@dataclass(frozen=True, slots=True)
class Found:
    """A model on this machine: the id to show, and the folder or the GGUF file to read."""

    name: str
    path: Path

    @property
    def is_gguf(self) -> bool:
        return is_gguf(self.path)


def is_gguf(path: Path) -> bool:
    """Whether a model that was found is a GGUF file, and not a folder."""
    return path.suffix.lower() == ".gguf" and not path.is_dir()


def resolve_model(
    model: Named,
    *,
    revision: str = "main",
    cache_dir: str | Path | None = None,
    offline: bool = False,
    token: str | None = None,
    progress: Progress | None = None,
    environ: Mapping[str, str] | None = None,
) -> Found:
    """Where a model is, once it is here; arguments and errors as open_checkpoint's."""
    check_hub_options(revision, cache_dir, offline, token)
    variant = model if isinstance(model, Variant) else Variant(model)
    reference = parse_reference(variant.model)
    path = on_disk(reference, variant.quant)
    if path is None:
        from helexa.engine.checkpoint.hub import HubAccess, fetch_model  # an HTTP client: slow

        assert isinstance(reference, HubId)
        access = HubAccess.of(
            os.environ if environ is None else environ,
            cache_dir=cache_dir,
            offline=offline,
            token=token,
            progress=progress,
        )
        path = fetch_model(reference, revision, access, quant=variant.quant, judge=variant.judge)
    return Found(str(reference), path)


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


def on_disk(reference: Reference, quant: str | None = None) -> Path | None:
    """The folder or GGUF file of a reference that needs no hub, None for one that does.

    ``quant`` is a part of the name of one of several GGUF files.
    """
    if isinstance(reference, Builtin):
        return builtin_folder(reference)
    if isinstance(reference, LocalFolder):
        return in_folder(reference.path, str(reference), quant)
    if isinstance(reference, GGUFFile):
        choose_gguf([reference.path.name], quant)
        return reference.path
    if reference.scheme not in (None, DEFAULT_SCHEME):
        known = (DEFAULT_SCHEME, f"{BUILTIN_SCHEME}:helexa/tiny")
        raise PreflightError(
            "unknown_scheme",
            f"unknown scheme {reference.scheme!r} in model {str(reference)!r}",
            available=known,
            hint=f"known: {', '.join(known)}",
        )
    return None


def in_folder(folder: Path, model: str, quant: str | None) -> Path:
    """The folder, or of one with nothing but GGUF the file in it that is meant.

    Raises PreflightError or UnsupportedModel.
    """
    with reading(folder):
        files = [path.name for path in folder.iterdir()]
    if INDEX in files:  # shards may lie in folders below
        return folder
    gguf = gguf_files(folder)
    check_format(model, [*files, *gguf])
    if detect_format([*files, *gguf]) == "gguf":
        return folder / choose_gguf(gguf, quant)
    return folder


def builtin_folder(reference: Builtin) -> Path:
    """Where the package keeps a model it ships."""
    return Path(helexa.__file__).parent / "builtin" / reference.name.partition("/")[2]
