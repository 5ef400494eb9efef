"""Files of weights, mapped into memory and read piece by piece as they are used."""

from __future__ import annotations

import mmap
import sys
import threading
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from helexa.engine.checkpoint.table import TensorInfo


class Maps:
    """The files of one folder, mapped when first used.

    A view keeps its file's map alive, so it stays valid after ``close``; once nothing holds it any
    more, the memory it was read into is free. The maps are private: writing to a view never
    reaches the file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.maps: dict[str, mmap.mmap] = {}
        self.lock = threading.Lock()
        self.views: weakref.WeakValueDictionary[tuple[str, int, int], memoryview] = (
            weakref.WeakValueDictionary()
        )

    def view(self, info: TensorInfo) -> memoryview:
        """The bytes of a tensor; every tensor made of them holds this one object."""
        key = info.file, info.start, info.nbytes
        view = self.views.get(key)
        if view is None:
            shard = self.map(info.file)
            view = memoryview(shard)[info.start : info.start + info.nbytes]
            weakref.finalize(view, release, shard, info.start, info.nbytes).atexit = False
            self.views[key] = view
        return view

    def map(self, file: str) -> mmap.mmap:
        with self.lock:
            if file not in self.maps:
                with (self.folder / file).open("rb") as handle:
                    self.maps[file] = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_COPY)
            return self.maps[file]

    def close(self) -> None:
        """Forget the maps; each is unmapped with the last view of it."""
        self.maps.clear()


def release(shard: mmap.mmap, start: int, nbytes: int) -> None:
    """Give back the whole pages of a range that nobody views any more.

    A page that is touched again is read from the file again. Only Linux promises this.
    """
    if sys.platform == "linux":
        first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        length = (start + nbytes) // mmap.PAGESIZE * mmap.PAGESIZE - first
        if length > 0:
            shard.madvise(mmap.MADV_DONTNEED, first, length)
