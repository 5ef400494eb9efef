"""What a compiler left that was killed is found, and nothing else is touched."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch._inductor.codecache import LOCK_TIMEOUT
from torch._inductor.cpu_vec_isa import VecISA, valid_vec_isa_list
from torch._inductor.utils import clear_caches

from helexa.engine.kernels import compiled, compiler_cache
from helexa.engine.kernels.compiled import Compiler
from helexa.engine.kernels.compiler_cache import (
    VARIABLE,
    cache_folder,
    can_be_made,
    cpu_kind,
    drop_damaged,
    empty_cache,
    forget_instructions,
    is_whole,
)
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
    assert drop_damaged(tmp_path) == [library]
    assert not library.exists()


BUILDER = """
import shutil, sys, time
from filelock import FileLock
whole, library, lock = sys.argv[1:]
with FileLock(lock):
    print("locked", flush=True)
    if sys.stdin.readline():
        shutil.copy(whole, library)
"""


@contextmanager
def builder(library: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has begun to build it, holds torch's lock, and goes on when it is told to."""
    os.truncate(library, 100)
    lock = library.parents[1] / "locks" / "cab.lock"
    lock.parent.mkdir()
    command = [sys.executable, "-c", BUILDER, str(LIBRARY), str(library), str(lock)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


@needs_elf
@pytest.mark.parametrize("written_s_ago", [60, 0, -3600], ids=["stalled", "now", "other clock"])
def test_one_that_is_being_built_is_waited_for(
    library: Path, tmp_path: Path, written_s_ago: float
) -> None:
    """However long nothing was written, and whatever the clock of a file server says."""
    assert LIBRARY is not None
    with builder(library) as process, ThreadPoolExecutor(1) as pool:
        at = time.time() - written_s_ago
        os.utime(library, (at, at))
        dropped = pool.submit(drop_damaged, tmp_path)
        with pytest.raises(TimeoutError):
            dropped.result(0.2)
        process.communicate("go on\n")
        assert dropped.result(30) == []
    assert library.read_bytes() == LIBRARY.read_bytes()


@needs_elf
def test_one_whose_builder_was_killed_goes_at_once(library: Path, tmp_path: Path) -> None:
    with builder(library) as process:
        process.kill()
        process.wait()
        began = time.monotonic()
        assert drop_damaged(tmp_path) == [library]
    assert time.monotonic() - began < LOCK_TIMEOUT / 20  # nothing is waited for


@needs_elf
def test_what_others_write_in_the_folder_is_theirs(library: Path, tmp_path: Path) -> None:
    """Triton's are deeper, and get their names when they are whole."""
    deeper = tmp_path / "triton" / "0" / "tmp.pid_1" / "launcher.so"
    deeper.parent.mkdir(parents=True)
    deeper.write_bytes(b"\x7fELF")
    assert drop_damaged(tmp_path) == []
    assert deeper.exists()


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
        file.write_bytes(b"")
        key = file.name.partition(".")[0]
        assert (tmp_path / cpu_kind() / "locks" / f"{key}.lock").exists()  # torch's own
    clear_caches()  # of this process
    with caplog.at_level("WARNING", compiled.__name__):
        assert list(wanting().compile()) == [1]
    assert "half a library" in caplog.text
    assert all(is_whole(file) and file.stat().st_size for file in found)


@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"), reason="knows no vectors"
)
def test_a_folder_may_be_shared_with_other_cpus() -> None:
    """Torch would take kernels for the vectors of this one, and leave out half of the sums."""
    program = "from helexa.engine.kernels.compiler_cache import cpu_kind; print(cpu_kind())"
    kinds = {cpu_kind()}
    for limit in ("avx2", "default"):
        environ = os.environ | {"ATEN_CPU_CAPABILITY": limit}
        command = [sys.executable, "-c", program]
        made = subprocess.run(command, env=environ, stdout=subprocess.PIPE, text=True, check=True)
        kinds.add(made.stdout.strip())
    assert len(kinds) == (3 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 2)


def test_a_kind_of_cpu_has_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    assert cache_folder() == cache_folder() == tmp_path / cpu_kind()
    assert os.environ[VARIABLE] == str(tmp_path / cpu_kind())


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ("flags: avx2 fma\n", False),
        ("flags: avx2 fma avx512f\nflags: avx2 fma avx512f\ncpu MHz: 9\n", True),
        ("Features: asimd sve\n", False),
    ],
)
def test_which_kinds_there_are(
    other: str, same: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "cpuinfo"
    monkeypatch.setattr(compiler_cache, "CPUS", told)
    told.write_text("flags: avx2 fma avx512f\ncpu MHz: 3\n")
    kind = cpu_kind()
    told.write_text(other)
    assert (cpu_kind() == kind) == same
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "SVE256")
    assert cpu_kind() != kind


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
    assert folders[0] == str(tmp_path / cpu_kind()) != folders[1]
    assert os.environ[VARIABLE] == folders[0]


def test_nothing_is_left_of_a_second_try_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: object, **options: object) -> None:
        (Path(os.environ[VARIABLE]) / "x.cpp").touch()
        raise OSError(28, os.strerror(28), "/some/cache/x.cpp")

    monkeypatch.setenv(VARIABLE, str(tmp_path / "named"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(compiled, "compiled", fail)
    with pytest.raises(InvalidRequest, match=r"No space left on device: '/some/cache/x\.cpp'"):
        list(wanting().compile())
    assert (tmp_path / "named" / cpu_kind() / "x.cpp").exists()
    assert list((tmp_path / "temporary").iterdir()) == []
    (record,) = caplog.records
    assert record.name == compiled.__name__
    assert f"compiling in {tmp_path / 'named' / cpu_kind()} failed" in record.message


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_folder_that_cannot_be_made_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, below: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(VARIABLE, str(tmp_path / "file" / below))
    monkeypatch.setattr(compiled, "compiled", lambda *_, **__: product)
    assert not can_be_made()
    assert list(wanting().compile()) == [1]


def test_neither_folder_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "named"))
    (tmp_path / "named").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with pytest.raises(InvalidRequest, match=r"No such file or directory: .*/gone/") as caught:
        list(wanting().compile())
    assert caught.value.hint == f"make room in {tmp_path}, or name another folder by TMPDIR"


@needs_compiler
def test_torch_is_imported_whatever_its_folder_is(tmp_path: Path) -> None:
    """Which it makes meanwhile; after an error it could not be imported again."""
    (tmp_path / "file").touch()
    check = "from helexa.engine.kernels.compiled import require_compiler as r; r(); r()"
    environment = os.environ | {VARIABLE: str(tmp_path / "file")}
    subprocess.run([sys.executable, "-c", check], env=environment, check=True)


def test_instructions_are_asked_for_again_in_another_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without room, torch finds none that it could use, and would never ask again."""
    asked: list[object] = []

    def cannot(isa: VecISA, code: str) -> bool:
        asked.append(isa)
        return False

    monkeypatch.setattr(VecISA, "check_build", cannot)
    try:
        forget_instructions()
        valid_vec_isa_list()
        once = list(asked)
        valid_vec_isa_list()
        assert asked == once
        with empty_cache():
            valid_vec_isa_list()
        assert asked == once + once
    finally:
        forget_instructions()


def test_an_empty_folder_in_use_is_left_in_its_place() -> None:
    """By another load of this process, which takes it away in the end."""
    with empty_cache():
        before = os.environ[VARIABLE]
        assert cache_folder() == Path(before)
        assert os.environ[VARIABLE] == before
