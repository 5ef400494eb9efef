"""Which build this is, from wherever that can be told."""

from __future__ import annotations

from pathlib import Path

import pytest

import helexa
from helexa.daemon.build import STAMP, build_info, version_line, with_cuda

SHA = "0123456789abcdef0123456789abcdef01234567"


def checkout(status: str = "") -> dict[str, str]:
    return {"rev-parse": f"{SHA}\n", "status": status}


def git(answers: dict[str, str] | None):  # type: ignore[no-untyped-def]  # ten words of a fake
    def run(*args: str) -> str:
        if answers is None:
            raise OSError("no git")
        return answers[args[0]]

    return run


def test_n028_version(tmp_path: Path) -> None:
    clean = build_info({}, git=git(checkout()), package=tmp_path)
    assert clean.package_version == helexa.__version__
    assert (clean.git_sha, clean.git_sha_long, clean.git_dirty) == (SHA[:7], SHA, False)
    assert build_info({}, git=git(checkout(" M x")), package=tmp_path).git_dirty
    given = build_info({"HELEXA_BUILD_SHA": "0123456789"}, git=git(checkout(" M x")))
    assert (given.git_sha, given.git_sha_long, given.git_dirty) == ("0123456", None, False)
    unknown = build_info({}, git=git(None), package=tmp_path)
    assert (unknown.git_sha, unknown.git_sha_long) == ("unknown", None)
    assert (unknown.profile, unknown.rustc_version) == ("release", None)


def test_a_packaged_build_says_what_it_was_made_of(tmp_path: Path) -> None:
    (tmp_path / STAMP).write_text(f"{SHA} 2026-01-02T03:04:05Z\n")
    build = build_info({}, git=git(checkout(" M x")), package=tmp_path)
    assert (build.git_sha_long, build.build_timestamp) == (SHA, "2026-01-02T03:04:05Z")
    assert not build.git_dirty
    (tmp_path / STAMP).write_text("nonsense")
    assert build_info({}, git=git(None), package=tmp_path).git_sha == "unknown"


def test_git_is_not_asked_about_a_folder_it_does_not_track(tmp_path: Path) -> None:
    assert build_info({}, package=tmp_path).git_sha == "unknown"


@pytest.mark.parametrize(
    ("status", "cuda", "ending"),
    [("", None, "(0123456)"), (" M x", "12.8", "(0123456-dirty) [cuda]")],
)
def test_n007_version_line(status: str, cuda: str | None, ending: str, tmp_path: Path) -> None:
    build = build_info({}, git=git(checkout(status)), package=tmp_path, cuda_version=cuda)
    assert with_cuda(with_cuda(build, None), cuda) == build
    assert version_line(build) == f"helexa {helexa.__version__} {ending}"
