"""Files and folders that are written under another name and get their own when they are whole."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from helexa.engine.checkpoint.files import reading
from helexa.engine.checkpoint.formats import SMALL_FILES
from helexa.engine.checkpoint.safetensors_writer import is_ours
from helexa.engine.checkpoint.table import INDEX, SINGLE
from helexa.errors import CheckpointError, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
FILE_ENDINGS = frozenset({".safetensors", ".bin", ".pt", ".pth", ".ggml", ".json"})
"""A folder that is called so would not be what was meant."""


def check_target(target: Path, *, overwrite: bool) -> None:
    """Raise InvalidRequest for a path that is not to be written to.

    One that ends in `.gguf` will be a file, every other a folder. Only a file, or a folder that was
    written here and holds nothing else, is overwritten. Raises CheckpointError for what may not be
    looked at.
    """
    with reading(target):
        check_parent(target.parent)
        check_own(target, overwrite=overwrite)


def check_parent(folder: Path) -> None:
    """Raise InvalidRequest for a folder that nothing can be put into."""
    if not folder.is_dir():
        raise InvalidRequest(f"there is no folder {folder}", param="dst", hint="make it")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise refused(folder, "may not be written to", "write to another folder")


def check_own(target: Path, *, overwrite: bool) -> None:
    """Raise InvalidRequest for what is there and is not to be overwritten, or has a wrong name."""
    if is_file_name(target):
        if target.is_dir():
            raise refused(target, "is a folder", "choose another name")
        if target.exists() and not overwrite:
            raise refused(target, "exists", "choose another name, or --force")
        return
    if target.suffix.lower() in FILE_ENDINGS:
        raise refused(
            target, "has the name of a file", "name a folder, or a file that ends in .gguf"
        )
    if target.exists() and not target.is_dir():
        raise refused(target, "is a file", "choose another name")
    if target.is_dir() and any(target.iterdir()):
        if not overwrite:
            raise refused(target, "exists", "choose another name, or --force")
        check_ours(target)


def is_file_name(target: Path) -> bool:
    """Whether a path is that of a GGUF file."""
    return target.suffix.lower() == ".gguf"


def check_ours(folder: Path) -> None:
    """Raise InvalidRequest for a folder that holds anything that was not written here."""
    for path in sorted(folder.iterdir()):
        weights = path.name == SINGLE or SHARD.fullmatch(path.name)
        known = weights or path.name in (*SMALL_FILES, INDEX)
        if not known or not path.is_file():
            raise refused(folder, f"holds {path.name}", "choose another name, or remove that")
        if weights and not is_ours(path):
            raise refused(
                folder,
                f"holds {path.name}, which `helexa quantize` has not written",
                "choose another name: only what it has written is overwritten",
            )
    if not any(path.suffix == ".safetensors" for path in folder.iterdir()):
        raise refused(folder, "holds files, but no weights of ours", "choose another name")


def refused(target: Path, why: str, hint: str) -> InvalidRequest:
    return InvalidRequest(f"{target} {why}", param="dst", hint=hint)


def check_room(target: Path, nbytes: int) -> None:
    """Raise CheckpointError where the disk has less left than is needed."""
    free = shutil.disk_usage(target.parent).free
    if free < nbytes:
        raise CheckpointError(
            f"{target} needs {nbytes} bytes, {target.parent} has {free} left",
            hint="free some, or write to another disk",
        )


@contextmanager
def whole(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """Another name in the same folder, whose file or folder gets the name ``target`` at the end.

    After an error or an interrupt nothing is left of it, and what was there before stays. Raises
    CheckpointError where the system refuses something, InvalidRequest for what has come to be there
    in the meantime.
    """
    part = beside(target, "part")
    try:
        yield part
        check_target(target, overwrite=overwrite)
        if part.is_dir():
            put_folder(part, target)
        else:
            part.replace(target)
    except OSError as error:
        raise CheckpointError(
            f"cannot write {target}: {error.strerror or error}",
            hint="see whether the disk is full, and who may write there",
        ) from error
    finally:
        discard(part)


def beside(target: Path, ending: str) -> Path:
    """A name in the same folder that nobody else uses; it says whose it is."""
    owner = f"{os.getpid()}-{threading.get_ident()}@{this_host()}"
    return target.with_name(f"{target.name}.{owner}.{ending}")


def this_host() -> str:
    """A short name of this machine: the processes of others cannot be looked for."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def clear_dead(target: Path) -> None:
    """Remove what processes of this machine that are gone have left half written of ``target``."""
    pattern = re.compile(rf"{re.escape(target.name)}\.(\d+)-(\d+)@{this_host()}\.part")
    with suppress(OSError):  # else they stay
        for path in target.parent.iterdir():
            match = pattern.fullmatch(path.name)
            if match and not is_alive(int(match[1]), int(match[2])):
                discard(path)


def is_alive(process: int, thread: int) -> bool:
    """Whether a process may still write; of this one, whether another thread may."""
    if process == os.getpid():
        others = {each.ident for each in threading.enumerate()} - {threading.get_ident()}
        return thread in others
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # somebody else's, or no process's number
        pass
    return True


def discard(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def put_folder(part: Path, target: Path) -> None:
    """Give a folder its name; one of ours that has it goes, and only then what it held."""
    if target.is_dir() and not any(target.iterdir()):
        target.rmdir()
    if not target.exists():
        part.rename(target)
        return
    old = beside(target, "old")
    target.rename(old)
    try:
        part.rename(target)
    except BaseException:
        old.rename(target)
        raise
    for path in old.iterdir():
        path.unlink()
    old.rmdir()
