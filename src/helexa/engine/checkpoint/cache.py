"""The folder that Hugging Face tools keep models in; it is shared with them.

`models--org--name/` holds `blobs/<etag>` (contents), `snapshots/<commit>/<file>` (links to blobs)
and `refs/<revision>` (the commit a branch or tag stood at).
Source: https://huggingface.co/docs/huggingface_hub/guides/manage-cache
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from helexa.engine.checkpoint.reference import PLAIN_NAME
from helexa.errors import PreflightError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

REPO_PREFIX = "models--"


def cache_root(cache_dir: str | Path | None, environ: Mapping[str, str]) -> Path:
    """Where the cache is: the argument, `HF_HUB_CACHE`, `HF_HOME`/hub, or the home folder's."""
    if cache_dir is not None and str(cache_dir):
        return Path(cache_dir).expanduser()
    if environ.get("HF_HUB_CACHE"):
        return Path(environ["HF_HUB_CACHE"]).expanduser()
    return home(environ) / "hub"


def home(environ: Mapping[str, str]) -> Path:
    """The folder of all Hugging Face tools."""
    return Path(environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()


@dataclass(frozen=True, slots=True)
class RepoCache:
    """The part of the cache that belongs to one model."""

    root: Path
    org: str
    name: str

    @property
    def folder(self) -> Path:
        return self.root / f"{REPO_PREFIX}{self.org}--{self.name}"

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
        if revision == commit or (ref.is_file() and ref.read_text("utf-8").strip() == commit):
            return
        ref.parent.mkdir(parents=True, exist_ok=True)
        ref.write_text(commit, "utf-8")

    def local_snapshot(self, revision: str) -> Path | None:
        """The folder of a revision (or commit) as last fetched, None if it has no files."""
        ref = self.ref(revision)
        commit = ref.read_text("utf-8").strip() if ref.is_file() else revision
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


@dataclass(frozen=True, slots=True)
class CachedModel:
    """A fetched revision of a model; ``bytes`` is what its files hold."""

    id: str
    revision: str
    commit: str
    folder: Path
    bytes: int


def list_cached_models(root: Path) -> list[CachedModel]:
    """The models in a cache, by id; a folder without any file is left out."""
    found = []
    for folder in sorted(root.glob(f"{REPO_PREFIX}*--*")):
        org, _, name = folder.name.removeprefix(REPO_PREFIX).partition("--")
        names = revisions(folder)
        for snapshot in sorted((folder / "snapshots").glob("*")):
            files = [snapshot / file for file in files_in(snapshot)]
            if not files:
                continue
            size = sum(file.stat().st_size for file in files)
            revision = names.get(snapshot.name, snapshot.name)
            found.append(CachedModel(f"{org}/{name}", revision, snapshot.name, snapshot, size))
    return found


def revisions(folder: Path) -> dict[str, str]:
    """Commit → the branch or tag that stands at it."""
    refs = folder / "refs"
    return {(refs / ref).read_text("utf-8").strip(): ref for ref in files_in(refs)}
