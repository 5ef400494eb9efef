"""The folder in which torch's compiler keeps what it has made, and what may be wrong with that.

A linker writes a library under its final name, and torch builds one only where there is none. Who
is killed in between leaves half of one, which every later start would load: with an error, or with
a bus error where pages are missing. So libraries that end too early are deleted before any is
loaded.
"""

from __future__ import annotations

import struct
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
"""The environment variable that names the folder."""
SETTLED_S = 2.0
"""A library that was not written to for so long is nobody's work any more."""
ELF = b"\x7fELF\x02\x01"
"""How a library for 64 bits, lowest byte first, begins."""
ELF_HEADER = struct.Struct("<40xQ10xHH2x")
"""Where its table of sections lies, of how many bytes an entry is, and how many there are (ELF
specification, figure 1-3 and its 64-bit form). Linkers write it last, at the end of the file."""


def cache_folder() -> Path:
    """Where torch keeps it; made if need be. Raises OSError."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    folder = Path(cache_dir())
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def drop_damaged(folder: Path) -> list[Path]:
    """Delete libraries in ``folder`` that are not whole: which.

    Those that somebody may be writing are waited for. Raises OSError.
    """
    dropped = []
    for file in sorted(folder.rglob("*.so")):
        while not is_whole(file):
            try:
                age = time.time() - file.stat().st_mtime
                if 0 <= age < SETTLED_S:
                    time.sleep(SETTLED_S / 10)
                    continue
                file.unlink()
            except FileNotFoundError:  # somebody else has
                break
            dropped.append(file)
    return dropped


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


@contextmanager
def empty_cache() -> Iterator[None]:
    """For what is compiled inside, an empty folder for a while, in place of torch's.

    Raises OSError if there is no room for one.
    """
    from torch._inductor.utils import fresh_cache

    with fresh_cache():
        yield
