"""Tensors that are views of memory-mapped safetensors files; nothing is read before it is used."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING

import torch

from helexa.engine.checkpoint.table import TensorInfo, read_table
from helexa.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class SafetensorsFolder:
    """The tensors of one model folder, mapped.

    A tensor keeps its file's map alive, so it stays valid after ``close``. The maps are private:
    writing to a tensor never reaches the file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.table = read_table(folder)
        self.maps: dict[str, mmap.mmap] = {}

    def info(self, name: str) -> TensorInfo:
        """Raises CheckpointError if there is no such tensor."""
        try:
            return self.table[name]
        except KeyError:
            raise CheckpointError(
                f"tensor {name!r} is missing from {self.folder}",
                hint="config.json and the weights do not belong together; fetch the model again",
            ) from None

    def tensor(self, name: str) -> Tensor:
        """The whole tensor in its stored dtype and shape."""
        info = self.info(name)
        dtype = self.dtype(info)
        if not info.nbytes:
            return torch.empty(info.shape, dtype=dtype)
        buffer: mmap.mmap | bytearray = self.map(info.file)
        count, start = info.nbytes // dtype.itemsize, info.start
        if start % dtype.itemsize:  # torch wants aligned elements: copy what a foreign writer put
            buffer, start = bytearray(buffer[start : start + info.nbytes]), 0
        return torch.frombuffer(buffer, dtype=dtype, count=count, offset=start).view(info.shape)

    def slice(self, name: str, dim: int, start: int, length: int) -> Tensor:
        """Indices start … start + length of axis ``dim``, a view of the map."""
        return self.tensor(name).narrow(dim, start, length)

    def dtype(self, info: TensorInfo) -> torch.dtype:
        if info.dtype not in DTYPES:
            raise CheckpointError(
                f"tensor {info.name!r} in {self.folder / info.file} has dtype {info.dtype}",
                hint=f"supported: {', '.join(DTYPES)}",
            )
        return DTYPES[info.dtype]

    def map(self, file: str) -> mmap.mmap:
        if file not in self.maps:
            with (self.folder / file).open("rb") as handle:
                self.maps[file] = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_COPY)
        return self.maps[file]

    def close(self) -> None:
        """Forget the maps. They are not unmapped here: torch does not pin the buffers it views."""
        self.maps.clear()
