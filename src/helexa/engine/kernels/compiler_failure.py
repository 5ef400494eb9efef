"""What a user is told where compiling fails: the one line that says why, and what to do.

torch's errors quote whole commands. What is wrong is either the compiler, or where torch and the
compiler keep files: a second try keeps all of them among other temporary files, so that where that
fails, too, no other folder for compiled code would help.
"""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import Final

from helexa.errors import InvalidRequest

HINT: Final = "install g++ (or clang++) and Python's headers, or leave `compile` out"
VARIABLE: Final = "TMPDIR"
"""Names the folder for temporary files, to Python and to compilers alike."""
DISK: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
"""What is wrong with a disk, whichever file it is told of."""
PATH: Final = (errno.EACCES, errno.EPERM, errno.ENOENT, errno.EEXIST, errno.ENOTDIR)
"""What may be wrong with a folder, but with a header or a program, too."""
NOT_EXECUTABLE: Final = "failed to map segment"
"""A loader's words for libraries in a file system that may hold none."""
LONGEST: Final = 500


def failure(error: Exception) -> InvalidRequest:
    """What a user is told of a failure of the second try."""
    return InvalidRequest(
        f"`compile` failed: {reason(error)}",
        param="compile",
        hint=folder_hint(error) if is_of_a_folder(error) else HINT,
    )


def reason(error: Exception) -> str:
    """What went wrong, in a line: of a compiler's output that which says so."""
    inner = getattr(error, "inner_exception", error)  # torch wraps what its parts raise
    output = getattr(inner, "output", None)  # a compiler's
    lines = [
        line.strip().partition(".  ")[0]
        for line in str(output or inner).splitlines()
        if line.strip()
    ]
    disk = [os.strerror(number) for number in DISK]
    for line in lines:
        if any(text in line for text in disk):
            return line[:LONGEST]
    told = (line for line in lines if "error:" in line and not line.startswith("collect2:"))
    return next(told, lines[0] if lines else type(inner).__name__)[:LONGEST]


def is_of_a_folder(error: Exception) -> bool:
    """Whether it is for the place of files that it failed, rather than for the compiler."""
    inner = getattr(error, "inner_exception", error)
    if isinstance(inner, OSError) and inner.errno in DISK:
        return True
    if isinstance(inner, OSError) and inner.errno in PATH:
        return inner.filename is None or Path(str(inner.filename)).is_absolute()
    text = reason(error)
    if any(os.strerror(number) in text for number in DISK) or NOT_EXECUTABLE in text:
        return True
    return temporary_folder() in text and any(os.strerror(number) in text for number in PATH)


def folder_hint(error: Exception) -> str:
    """What to do about the folder for temporary files."""
    mend = "allow programs" if NOT_EXECUTABLE in reason(error) else "make room"
    return f"{mend} in {temporary_folder()}, or name another folder by {VARIABLE}"


def temporary_folder() -> str:
    """Where compilers keep temporary files, and the second try all of its own."""
    named = os.environ.get(VARIABLE, "")
    if named and Path(named).is_dir():  # also where Python has turned away from it: it is full
        return named
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:  # there is none in which Python can write
        return named or "/tmp"
