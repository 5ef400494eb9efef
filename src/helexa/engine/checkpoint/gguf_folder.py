"""What lies around a GGUF file: other files of its folder, and its tokenizer's repository."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from helexa.engine.checkpoint.cache import REPO_PREFIX, RepoCache
from helexa.engine.checkpoint.files import TokenizerFiles, read_text, reading

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SUFFIXES = ("-GGUF", "-gguf")
TOKENIZER = "tokenizer.json"


def gguf_files(folder: Path) -> list[str]:
    """The GGUF files in a folder and in those directly below it, where repositories put parts."""
    with reading(folder):
        found = [*folder.glob("*.gguf"), *folder.glob("*/*.gguf")]
        return sorted(path.relative_to(folder).as_posix() for path in found if path.is_file())


def tokenizer_files(path: Path, metadata: Mapping[str, Any]) -> TokenizerFiles:
    """Where the text layer of a GGUF file is: beside it, in its repository, or in that it is of.

    Last in the file itself.
    """
    files = TokenizerFiles.of(path.parent)
    snapshot = snapshot_of(path)
    if snapshot is not None and snapshot != path.parent:
        files = completed(files, TokenizerFiles.of(snapshot))
    if files.tokenizer_json is None and snapshot is not None:
        original = original_cache(snapshot)
        folder = original.local_snapshot("main") if original is not None else None
        found = TokenizerFiles.of(folder).tokenizer_json if folder is not None else None
        files = replace(files, tokenizer_json=found)
    own = {name: value for name, value in metadata.items() if name.startswith("tokenizer.")}
    return replace(files, gguf=own)


def text_around(path: Path, name: str) -> str | None:
    """The text of a file beside a GGUF file, else of its repository, None if there is none."""
    snapshot = snapshot_of(path)
    places = path.parent, *([] if snapshot is None else [snapshot])
    texts = (read_text(folder / name) for folder in places)
    return next((text for text in texts if text is not None), None)


def completed(files: TokenizerFiles, others: TokenizerFiles) -> TokenizerFiles:
    """``files``, with those of ``others`` for what is missing there."""
    names = TokenizerFiles.__dataclass_fields__
    return TokenizerFiles(**{name: getattr(files, name) or getattr(others, name) for name in names})


def snapshot_of(path: Path) -> Path | None:
    """The folder of the fetched revision that a file belongs to, None if it was not fetched."""
    for folder in path.absolute().parents:
        repo = folder.parent.parent
        if folder.parent.name == "snapshots" and repo.name.startswith(REPO_PREFIX):
            return folder
    return None


def original_cache(snapshot: Path) -> RepoCache | None:
    """The cache of the repository that a `-GGUF` one was made from, None for other names."""
    repo = snapshot.parent.parent
    org, _, name = repo.name.removeprefix(REPO_PREFIX).partition("--")
    base = original_name(name)
    return RepoCache(repo.parent, org, base) if base else None


def original_name(name: str) -> str | None:
    """The name without `-GGUF`, None for one that does not end so."""
    base = next((name.removesuffix(end) for end in SUFFIXES if name.endswith(end)), "")
    return base or None
