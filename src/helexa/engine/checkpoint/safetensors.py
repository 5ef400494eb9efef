"""Tensors that are views of memory-mapped safetensors files; nothing is read before it is used.

torch is imported with the first tensor: whoever wants only a model's config and files does without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from helexa.engine.checkpoint.counting import PLAIN_DTYPES
from helexa.engine.checkpoint.maps import Maps
from helexa.engine.checkpoint.table import TensorInfo, read_table
from helexa.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    import torch
    from torch import Tensor

DTYPES = {
    "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
    "I64": "int64", "I32": "int32", "I8": "int8", "U8": "uint8",
}  # fmt: skip
"""torch's names; those that are not PLAIN_DTYPES occur in quantised checkpoints."""


class SafetensorsFolder:
    """The tensors of one model folder, mapped; ``table``, if given, says which and where they are.

    A tensor keeps its file's map alive, so it stays valid after ``close`` (see `maps.Maps`).
    """

    def __init__(self, folder: Path, table: Mapping[str, TensorInfo] | None = None) -> None:
        self.folder = folder
        self.table = read_table(folder) if table is None else table
        self.maps = Maps(folder)

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
        """The whole of a plain tensor in its stored dtype and shape."""
        info = self.info(name)
        if info.dtype not in PLAIN_DTYPES:
            raise self.unreadable(info, PLAIN_DTYPES)
        return self.stored(name)

    def stored(self, name: str) -> Tensor:
        """The whole tensor in its stored dtype and shape, which may be part of another's format."""
        import torch

        info = self.info(name)
        dtype = self.dtype(info)
        if not info.nbytes:
            return torch.empty(info.shape, dtype=dtype)
        buffer: memoryview | bytearray = self.maps.view(info)
        if info.start % dtype.itemsize:  # torch wants aligned elements: a foreign writer's choice
            buffer = bytearray(buffer)
        return torch.frombuffer(buffer, dtype=dtype).view(info.shape)

    def slice(self, name: str, dim: int, start: int, length: int) -> Tensor:
        """Indices start … start + length of axis ``dim``, a view of the map."""
        return self.tensor(name).narrow(dim, start, length)

    def dtype(self, info: TensorInfo) -> torch.dtype:
        import torch

        if info.dtype not in DTYPES:
            raise self.unreadable(info, DTYPES)
        found: torch.dtype = getattr(torch, DTYPES[info.dtype])
        return found

    def unreadable(self, info: TensorInfo, supported: Iterable[str]) -> CheckpointError:
        """The error for a dtype that cannot be had."""
        return CheckpointError(
            f"tensor {info.name!r} in {self.folder / info.file} has dtype {info.dtype}",
            hint=f"supported: {', '.join(supported)}",
        )

    def close(self) -> None:
        """Forget the maps; each is unmapped with the last tensor that views it."""
        self.maps.close()
