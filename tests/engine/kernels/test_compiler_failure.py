"""Of what compilers and torch say, users are told the line that matters, and what helps."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from torch._inductor.exc import CppCompileError, InductorError, InvalidCxxCompiler

from helexa.engine.kernels.compiled import require_compiler
from helexa.engine.kernels.compiler_failure import HINT, LONGEST, failure
from helexa.errors import InvalidRequest
from tests.engine.compilers import needs_compiler

COMMAND = ["g++", "/tmp/t/header.hpp", "-I/usr/include/python3.11", "-o", "/tmp/t/header.i"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The one for temporary files."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return str(tmp_path)


def told(output: str) -> Exception:
    """The error that torch raises for a compiler's output."""
    return InductorError(CppCompileError(COMMAND, output), None)


OF_FOLDERS = [
    "<built-in>: fatal error: when writing output to FOLDER/t/header.i: No space left on device",
    "/usr/bin/ld: final link failed: No space left on device",
    "FOLDER/cc1.s: Fatal error: can't write 7 bytes to section .text: 'No space left on device'",
    "cc1plus: fatal error: cannot open 'FOLDER/x.s' for writing: Permission denied",
]


@pytest.mark.parametrize("line", OF_FOLDERS)
def test_a_folder_without_room(line: str, folder: str) -> None:
    line = line.replace("FOLDER", folder)
    found = failure(told(f"In file included from x.h\n{line}\ncollect2: error: ld returned 1"))
    assert str(found).startswith(f"`compile` failed: {line}")
    assert found.hint == f"make room in {folder}, or name another folder by TMPDIR"


def test_a_folder_without_programs(folder: str) -> None:
    """torch adds advice of its own, which would be the second one."""
    line = f"{folder}/x.so: failed to map segment from shared object"
    found = failure(OSError(f"{line}.  The most common reason … set TORCHINDUCTOR_CACHE_DIR"))
    hint = f"allow programs in {folder}, or name another folder by TMPDIR"
    assert str(found) == f"`compile` failed: {line}; {hint}"


@pytest.mark.parametrize("number", [2, 5, 13, 17, 20, 27, 28, 30, 122])
def test_a_file_that_cannot_be_written(number: int, folder: str) -> None:
    """The numbers are Linux's."""
    for error in (OSError(number, os.strerror(number), "/x/y"), OSError(number, "none is usable")):
        for raised in (error, InductorError(error, None)):
            found = failure(raised)
            assert str(error) in str(found)
            assert folder in str(found.hint)


@pytest.mark.parametrize(
    ("output", "line"),
    [
        ("In file\nx.h:1:10: fatal error: Python.h: No such file or directory\n  1 | #inc", 1),
        ("x.cpp: In function\nx.cpp:3:1: error: expected ';'", 1),
        ("/usr/bin/ld: cannot find -lgomp\ncollect2: error: ld returned 1 exit status", 0),
        ("g++: fatal error: Killed signal terminated program cc1plus", 0),
    ],
)
def test_a_compiler_that_cannot(output: str, line: int) -> None:
    found = failure(told(output))
    assert str(found) == f"`compile` failed: {output.splitlines()[line]}; {HINT}"


def test_other_errors_are_told_in_a_line() -> None:
    assert "failed: RuntimeError;" in str(failure(RuntimeError()))
    assert failure(FileNotFoundError(2, os.strerror(2), "g++")).hint == HINT
    assert len(str(failure(RuntimeError("x" * 9999)))) < LONGEST + 200


def test_no_folder_for_temporary_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    error = OSError(28, os.strerror(28))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "gone"))
    monkeypatch.setattr("tempfile.tempdir", "/elsewhere")
    assert "make room in /elsewhere," in str(failure(error).hint)
    monkeypatch.setattr("tempfile.gettempdir", none)
    assert f"make room in {tmp_path / 'gone'}," in str(failure(error).hint)


@pytest.mark.parametrize(
    ("named", "says", "hint"),
    [
        (None, "and none was found", HINT),
        ("/none", "and CXX names one that does not run: /none", "name another, or unset CXX"),
    ],
)
@needs_compiler
def test_no_compiler(
    named: str | None, says: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_compiler()  # imported as far as it must be
    monkeypatch.delenv("CXX", raising=False)
    if named is not None:
        monkeypatch.setenv("CXX", named)
    from torch._inductor import cpp_builder

    def cannot() -> str:
        raise InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", cannot)
    with pytest.raises(InvalidRequest, match=re.escape(says)) as caught:
        require_compiler()
    assert caught.value.hint == hint
