"""The folder that Hugging Face tools keep models in; it is shared with them.

`models--org--name/` holds `blobs/<etag>` (contents), `snapshots/<commit>/<file>` (links to blobs)
and `refs/<revision>` (the commit a branch or tag stood at).
Source: https://huggingface.co/docs/huggingface_hub/guides/manage-cache
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from helexa.engine.checkpoint.files import reading
from helexa.engine.checkpoint.reference import PLAIN_NAME
from helexa.errors import InvalidRequest, PreflightError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

REPO_PREFIX = "models--"


def cache_root(cache_dir: str | Path | None, environ: Mapping[str, str]) -> Path:
    """Where the cache is: the argument, `HF_HUB_CACHE`, `HF_HOME`/hub, or the home folder's."""
    if cache_dir is not None and str(cache_dir):
        return expanded(cache_dir, "cache_dir")
    if environ.get("HF_HUB_CACHE"):
        return expanded(environ["HF_HUB_CACHE"], "HF_HUB_CACHE")
    return home(environ) / "hub"


def home(environ: Mapping[str, str]) -> Path:
    """The folder of all Hugging Face tools: `HF_HOME`, or in `XDG_CACHE_HOME`, or in ~/.cache."""
    if environ.get("HF_HOME"):
        return expanded(environ["HF_HOME"], "HF_HOME")
    caches = environ.get("XDG_CACHE_HOME") or "~/.cache"
    return expanded(caches, "XDG_CACHE_HOME") / "huggingface"


def expanded(path: str | Path, name: str) -> Path:
    """``path`` with a leading ``~`` or ``~user`` written out; InvalidRequest if nobody is that."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InvalidRequest(
            f"{name} is {str(path)!r}, and that user has no home folder",
            param=name,
            hint="write the path out",
        ) from error


@dataclass(frozen=True, slots=True)
class RepoCache:
    """The part of the cache that belongs to one model; ``name`` may have slashes."""

    root: Path
    org: str
    name: str

    @property
    def folder(self) -> Path:
        return self.root / f"{REPO_PREFIX}{self.org}--{self.name.replace('/', '--')}"

    def blob(self, etag: str) -> Path:
        return self.folder / "blobs" / etag

    def lock(self, etag: str) -> Path:
        return self.root / ".locks" / self.folder.name / f"{etag}.lock"

    def snapshot(self, commit: str) -> Path:
        return self.folder / "snapshots" / commit

    def ref(self, revision: str) -> Path:
        """The file that says which commit ``revision`` is; raises PreflightError for bad names."""
        if not all(PLAIN_NAME.fullmatch(part) for part in revision.split("/")):
            raise PreflightError(
                "repo_fetch_failed",
                f"revision {revision!r} cannot be a branch, tag or commit",
                hint="give one that the repository has, such as main",
            )
        return self.folder / "refs" / revision

    def write_ref(self, revision: str, commit: str) -> None:
        """Remember that ``revision`` stood at ``commit``."""
        ref = self.ref(revision)
        if revision == commit or commit_in(ref) == commit:
            return
        ref.parent.mkdir(parents=True, exist_ok=True)
        ref.write_text(commit, "utf-8")

    def local_snapshot(self, revision: str) -> Path | None:
        """The folder of a revision (or commit) as last fetched, None if it has no files.

        Raises CheckpointError if it may not be read.
        """
        ref = self.ref(revision)
        with reading(self.folder):
            commit = commit_in(ref) or revision
            if not PLAIN_NAME.fullmatch(commit):
                return None
            folder = self.snapshot(commit)
            return folder if next(files_in(folder), None) else None

    def link(self, etag: str, commit: str, file: str) -> None:
        """Show a blob under its name in a snapshot; a copy where links are not possible."""
        pointer = self.snapshot(commit) / file
        pointer.parent.mkdir(parents=True, exist_ok=True)
        pointer.unlink(missing_ok=True)
        try:
            pointer.symlink_to(os.path.relpath(self.blob(etag), pointer.parent))
        except FileExistsError:
            return  # another process was as quick
        except OSError:
            shutil.copyfile(self.blob(etag), pointer)


def files_in(folder: Path) -> Iterator[str]:
    """The files below ``folder``, sorted, as posix paths relative to it; broken links skipped."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.relative_to(folder).as_posix()


def commit_in(ref: Path) -> str | None:
    """The commit that a file of `refs` names, None if there is no such file; raises OSError."""
    return ref.read_text("utf-8", "replace").strip() if ref.is_file() else None


@dataclass(frozen=True, slots=True)
class CachedModel:
    """A fetched revision of a model; ``bytes`` is what its files hold.

    Where they may not be looked at, ``unreadable`` says why, and ``bytes`` is 0.
    """

    id: str
    revision: str
    commit: str
    folder: Path
    bytes: int
    unreadable: str | None = None


def list_cached_models(root: Path) -> list[CachedModel]:
    """The models in a cache, by id; a folder without any file is left out."""
    repos = sorted(root.glob(f"{REPO_PREFIX}?*"))
    return [model for folder in repos for model in models_in(folder)]


def models_in(folder: Path) -> Iterator[CachedModel]:
    """The fetched revisions of one model; some ids, such as gpt2, have no organisation."""
    id = folder.name.removeprefix(REPO_PREFIX).replace("--", "/", 1)
    try:
        snapshots = sorted((folder / "snapshots").iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        yield CachedModel(id, "", "", folder, 0, unreadable=str(error))
        return
    names = revisions(folder)
    for snapshot in snapshots:
        commit = snapshot.name
        revision = names.get(commit, commit)
        try:
            stored = stored_bytes(snapshot)
        except OSError as error:
            yield CachedModel(id, revision, commit, snapshot, 0, unreadable=str(error))
            continue
        if stored is not None:
            yield CachedModel(id, revision, commit, snapshot, stored)


def stored_bytes(folder: Path) -> int | None:
    """What the files below ``folder`` hold, None if there is no file; raises OSError."""
    if not folder.is_dir():
        return None
    next(folder.iterdir(), None)  # raises where `files_in` would find nothing and say nothing
    sizes = [(folder / file).stat().st_size for file in files_in(folder)]
    return sum(sizes) if sizes else None


def revisions(folder: Path) -> dict[str, str]:
    """Commit → the branch or tag that stands at it, as far as that may be read."""
    found: dict[str, str] = {}
    with suppress(OSError):
        for ref in files_in(folder / "refs"):
            found[commit_in(folder / "refs" / ref) or ""] = ref
    return found
