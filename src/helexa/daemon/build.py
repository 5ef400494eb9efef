"""Which build of helexa this is."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import helexa
from helexa.protocol.control import BuildInfo

STAMP = "build_stamp.txt"
GIT_TIMEOUT_S = 5
SHORT = 7

Git = Callable[..., str]


def build_info(
    environ: Mapping[str, str],
    *,
    git: Git | None = None,
    package: Path | None = None,
    cuda_version: str | None = None,
) -> BuildInfo:
    """The build, its commit from the environment, the package's stamp or git, in this order.

    ``cuda_version`` is the driver's if a card can be used. ``git`` runs git with arguments and
    raises OSError where it cannot.
    """
    folder = package or Path(helexa.__file__).parent
    long, dirty, stamped = commit(environ, folder, git or git_in(folder))
    build = BuildInfo(
        package_version=helexa.__version__,
        git_sha=long[:SHORT] or "unknown",
        git_sha_long=long if len(long) == 40 else None,
        git_dirty=dirty,
        build_timestamp=stamped,
        profile="release",
        target=f"{platform.machine()}-{sys.platform}",
        features=(),
        python_version=platform.python_version(),
        torch_version=installed("torch"),
    )
    return with_cuda(build, cuda_version)


def with_cuda(build: BuildInfo, version: str | None) -> BuildInfo:
    """The same build where a card with this version of CUDA can be used."""
    features = ("cuda",) if version else ()
    return replace(build, features=features, cuda_version=version)


def commit(environ: Mapping[str, str], folder: Path, git: Git) -> tuple[str, bool, str | None]:
    """The commit (empty if unknown), whether it was changed since, and when it was packaged."""
    given = environ.get("HELEXA_BUILD_SHA", "").strip()
    if given:
        return given, False, None
    try:
        sha, stamped = (folder / STAMP).read_text("utf-8").split()[:2]
    except (OSError, ValueError):
        pass
    else:
        return sha, False, stamped
    try:
        return git("rev-parse", "HEAD").strip(), bool(git("status", "--porcelain").strip()), None
    except OSError:
        return "", False, None


def git_in(folder: Path) -> Git:
    """Git, as it is asked in a folder; only of a checkout that tracks the folder."""

    def run(*args: str) -> str:
        try:
            tracked = ["git", "-C", str(folder), "ls-files", "--error-unmatch", "__init__.py"]
            command = ["git", "-C", str(folder), *args]
            for words in (tracked, command):
                done = subprocess.run(
                    words, capture_output=True, text=True, timeout=GIT_TIMEOUT_S, check=True
                )
        except subprocess.SubprocessError as error:
            raise OSError(str(error)) from error
        return done.stdout

    return run


def installed(package: str) -> str | None:
    """A package's version without importing it, None if it is not there."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def version_line(build: BuildInfo) -> str:
    """What `--version` prints."""
    dirty = "-dirty" if build.git_dirty else ""
    features = f" [{','.join(build.features)}]" if build.features else ""
    return f"helexa {build.package_version} ({build.git_sha}{dirty}){features}"
