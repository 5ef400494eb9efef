"""The folder in which torch's compiler keeps what it has made, and what may be wrong with that.

A linker writes a library under its final name, and torch builds one only where there is none. Who
is killed in between leaves half of one, which every later start would load: with an error, or with
a bus error where pages are missing. So libraries that end too early are deleted before any is
loaded.

Torch takes what it finds there for this CPU's, whichever it was made on: sums come out wrong where
its vectors were wider. So kernels are kept in a folder for each kind of CPU.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import platform
import struct
from contextlib import contextmanager, nullcontext
from getpass import getuser
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
"""The environment variable that names the folder."""
EMPTY = "helexa-empty-"
"""How the names of folders begin that are there for a while."""
CPUS = Path("/proc/cpuinfo")
KINDS = frozenset(
    {"vendor_id", "cpu family", "model", "flags", "CPU implementer", "CPU part", "Features", "isa"}
)
"""What tells kinds of CPUs apart there, on x86-64, ARM and RISC-V."""
ELF = b"\x7fELF\x02\x01"
"""How a library for 64 bits, lowest byte first, begins."""
ELF_HEADER = struct.Struct("<40xQ10xHH2x")
"""Where its table of sections lies, of how many bytes an entry is, and how many there are (ELF
specification, figure 1-3 and its 64-bit form). Linkers write it last, at the end of the file."""


def cache_folder() -> Path:
    """Where torch keeps it from now on in this process: what CPUs such as this one can use.

    Made if need be; an empty one that is in use for a while (`empty_folder`) is left in its place.
    Raises OSError.
    """
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    folder, own = Path(cache_dir()), cpu_kind()
    if folder.name.startswith(EMPTY):
        return folder
    if folder.name != own:
        folder /= own
    folder.mkdir(parents=True, exist_ok=True)
    os.environ[VARIABLE] = str(folder)
    return folder


def cpu_kind() -> str:
    """A name for what code for this CPU may be made of, as far as torch and a compiler see it.

    Torch chooses the width of vectors, and a compiler that is told to use what is there also what
    /proc/cpuinfo lists, where there is such a file.
    """
    capability = torch.backends.cpu.get_cpu_capability()
    about = {platform.machine(), platform.processor()}
    if CPUS.exists():
        lines = (line.partition(":") for line in CPUS.read_text("utf-8", "replace").splitlines())
        about |= {f"{name.strip()}:{value}" for name, _, value in lines if name.strip() in KINDS}
    digest = hashlib.sha256("\n".join(sorted(about)).encode()).hexdigest()
    return f"{capability.lower()}-{digest[:12]}"


def drop_damaged(folder: Path) -> list[Path]:
    """Delete libraries in ``folder`` that are not whole: which.

    What somebody is building is waited for: torch locks each library while it builds it, and the
    system unlocks what a process had locked when that ends, however it ends. Raises OSError.
    """
    dropped = []
    for file in sorted(folder.glob("*/*.so")):
        if not is_whole(file):
            with building(file):
                if not is_whole(file):
                    file.unlink(missing_ok=True)
                    dropped.append(file)
    return dropped


def building(file: Path) -> AbstractContextManager[object]:
    """As torch does, be the only one to build this library. Raises OSError after ten minutes."""
    from torch._inductor.codecache import LOCK_TIMEOUT
    from torch.utils._filelock import FileLock

    locks = file.parents[1] / "locks"
    locks.mkdir(exist_ok=True)
    return FileLock(str(locks / f"{file.name.partition('.')[0]}.lock"), timeout=LOCK_TIMEOUT)


def is_whole(file: Path) -> bool:
    """Whether a library is as long as its beginning says; one that is gone is nobody's trouble."""
    try:
        with file.open("rb") as stream:
            head = stream.read(ELF_HEADER.size)
            size = stream.seek(0, 2)
    except FileNotFoundError:
        return True
    if len(head) == ELF_HEADER.size and not head.startswith(ELF[:4]):
        return head.strip(b"\0") != b""  # of another system
    if len(head) < ELF_HEADER.size:
        return False
    start, each, count = ELF_HEADER.unpack(head)
    return not head.startswith(ELF) or (start > 0 and start + each * count <= size)


def import_compiler() -> None:
    """Import torch's compiler, which makes its folder meanwhile: an empty one, if it cannot.

    After an error it could not be imported in this process again. Raises OSError if there is no
    room for an empty folder either.
    """
    with nullcontext() if can_be_made() else empty_folder():
        importlib.import_module("torch._inductor.cpp_builder")


def can_be_made() -> bool:
    """Whether torch's folder can be made, or is there; asked without torch."""
    try:
        named = os.environ.get(VARIABLE) or Path(gettempdir(), f"torchinductor_{getuser()}")
        Path(named).mkdir(parents=True, exist_ok=True)
    except (OSError, KeyError):  # a user without a name has a folder of another name
        return False
    return True


@contextmanager
def empty_folder() -> Iterator[None]:
    """For a while, an empty folder in place of torch's. Raises OSError."""
    with TemporaryDirectory(prefix=EMPTY, ignore_cleanup_errors=True) as folder:
        before = os.environ.get(VARIABLE)
        os.environ[VARIABLE] = folder
        try:
            yield
        finally:
            if before is None:
                os.environ.pop(VARIABLE, None)
            else:
                os.environ[VARIABLE] = before


@contextmanager
def empty_cache() -> Iterator[None]:
    """For what is compiled inside, an empty folder for a while, in place of torch's.

    Raises OSError if there is no room for one. torch's own `fresh_cache` leaves the folder behind
    after an error.
    """
    with empty_folder():
        from torch._inductor.utils import clear_caches

        clear_caches()
        forget_instructions()
        try:
            yield
        finally:
            clear_caches()


def forget_instructions() -> None:
    """Let torch ask again which instructions can be used.

    It asks by compiling, takes a folder without room for a no, and remembers that: what it compiles
    after that has no instructions for vectors.
    """
    from torch._inductor.cpu_vec_isa import VecISA, supported_vec_isa_list, valid_vec_isa_list

    valid_vec_isa_list.cache_clear()
    for kind in {VecISA, *(base for isa in supported_vec_isa_list for base in type(isa).mro())}:
        for remembered in vars(kind).values():
            if hasattr(remembered, "cache_clear"):
                remembered.cache_clear()
