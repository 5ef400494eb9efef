"""What a compiler left that was killed is found, and nothing else is touched."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch._inductor.utils import clear_caches

from helexa.engine.kernels import compiled, compiler_cache
from helexa.engine.kernels.compiled import Compiler
from helexa.engine.kernels.compiler_cache import VARIABLE, drop_damaged, is_whole
from helexa.errors import InvalidRequest
from tests.engine.compilers import needs_compiler

LIBRARY = next(Path(torch.__file__).parent.glob("_C*.so"), None)
needs_elf = pytest.mark.skipif(
    sys.platform != "linux" or LIBRARY is None, reason="libraries look otherwise here"
)


@pytest.fixture
def library(tmp_path: Path) -> Path:
    assert LIBRARY is not None
    file = tmp_path / "ab" / "cab.main.so"
    file.parent.mkdir()
    shutil.copy(LIBRARY, file)
    return file


def aged(file: Path) -> Path:
    """As if nobody had written to it for a while."""
    long_ago = time.time() - 60
    os.utime(file, (long_ago, long_ago))
    return file


@needs_elf
def test_whole_libraries_stay(library: Path, tmp_path: Path) -> None:
    assert is_whole(library)
    assert is_whole(tmp_path / "gone.so")
    (tmp_path / "other.so").write_bytes(b"\xcf\xfa\xed\xfe" + bytes(100))  # macOS
    assert drop_damaged(tmp_path) == []
    assert library.exists()


@needs_elf
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5])
def test_parts_of_libraries_go(library: Path, tmp_path: Path, share: float) -> None:
    os.truncate(library, int(library.stat().st_size * share))
    assert drop_damaged(aged(library).parents[1]) == [library]
    assert not library.exists()


@needs_elf
def test_one_that_is_being_written_is_waited_for(library: Path, tmp_path: Path) -> None:
    whole = library.read_bytes()
    library.write_bytes(bytes(len(whole)))
    script = f"import time, pathlib; time.sleep(0.5); pathlib.Path({str(library)!r}).write_bytes("
    source = f"pathlib.Path({str(LIBRARY)!r}).read_bytes())"
    with subprocess.Popen([sys.executable, "-c", script + source]) as writer:
        assert drop_damaged(tmp_path) == []
        assert writer.wait() == 0
    assert library.read_bytes() == whole


def product(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (x * y).sum(-1)


def wanting() -> Compiler:
    """A compiler with one kernel to be compiled."""
    compiler = Compiler()
    compiler.kernel(product, (), [torch.zeros(2, 48), torch.zeros(2, 48)]).wanted = True
    return compiler


@needs_elf
@needs_compiler
def test_a_start_after_a_kill_compiles_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    assert list(wanting().compile()) == [1]
    found = sorted(tmp_path.rglob("*.main.so"))
    assert found
    for file in found:
        file.unlink()  # the one in use is mapped: it stays as it is
        aged(file.parent / file.name if file.write_bytes(b"") else file)
    clear_caches()  # of this process
    with caplog.at_level("WARNING", compiled.__name__):
        assert list(wanting().compile()) == [1]
    assert "half a library" in caplog.text
    assert all(is_whole(file) and file.stat().st_size for file in found)


def test_what_fails_is_tried_once_more_in_an_empty_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    folders: list[str] = []

    def fail_first(*args: object, **options: object) -> object:
        folders.append(os.environ[VARIABLE])
        if len(folders) == 1:
            raise ImportError("file too short")
        return product

    monkeypatch.setattr(compiled, "compiled", fail_first)
    assert list(wanting().compile()) == [1]
    assert folders[0] == str(tmp_path) != folders[1]
    assert os.environ[VARIABLE] == str(tmp_path)


@pytest.mark.parametrize("why", [28, 30], ids=["full", "read only"])
def test_a_folder_without_room_is_named(monkeypatch: pytest.MonkeyPatch, why: int) -> None:
    def fail(*args: object, **options: object) -> None:
        raise OSError(why, os.strerror(why), "/some/cache/x.cpp")

    monkeypatch.setattr(compiled, "compiled", fail)
    with pytest.raises(InvalidRequest, match=r"/some/cache/x\.cpp") as caught:
        list(wanting().compile())
    assert caught.value.param == "compile"
    assert VARIABLE in str(caught.value.hint)
    assert "g++" not in str(caught.value.hint)


def test_a_folder_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> Path:
        raise PermissionError(13, os.strerror(13), "/nope")

    monkeypatch.setattr(compiled, "cache_folder", refuse)
    monkeypatch.setattr(compiled, "empty_cache", refuse)
    assert compiler_cache.VARIABLE == VARIABLE
    with pytest.raises(InvalidRequest, match="/nope"):
        list(wanting().compile())
