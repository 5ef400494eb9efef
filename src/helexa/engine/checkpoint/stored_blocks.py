"""Folders of safetensors whose matrices are rows of GGUF's blocks: `helexa quantize` writes them.

A matrix [N, K] is a tensor U8 [N, bytes of a row], those of a layer's experts one U8 [E, N, bytes];
config.json says which type of block it is (see `quantization_config.read_blocks`). Here they are
told by that type and their logical shape, as those of a GGUF file are; nothing is copied for it.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, cast

from helexa.engine.checkpoint.gguf_types import READABLE
from helexa.engine.checkpoint.safetensors import SafetensorsFolder
from helexa.engine.checkpoint.table import TensorInfo, read_table
from helexa.engine.quantization_config import BLOCKS
from helexa.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from torch import Tensor

    from helexa.engine.quantization_config import QuantizationConfig

BYTES = "U8"
STACKED = re.compile(r"(.+\.experts)\.(gate_up_proj|down_proj)")
PARTS = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}


def typed_table(folder: Path, quantization: QuantizationConfig | None) -> dict[str, TensorInfo]:
    """Every tensor of a folder, those in blocks with the name of their type and logical shape.

    Raises CheckpointError naming file and tensor, also for matrices of bytes of which nobody says
    what they are.
    """
    table = read_table(folder)
    if quantization is None:
        for info in table.values():
            matrix = info.name.endswith(".weight") or STACKED.fullmatch(info.name)
            if info.dtype == BYTES and matrix:
                raise CheckpointError(
                    f"tensor {info.name!r} in {folder / info.file} holds bytes, and config.json "
                    "has no `quantization_config` that says what they are",
                    hint="restore the config.json that was written with the weights",
                )
    elif quantization.method == BLOCKS:
        return {name: typed(info, quantization, folder) for name, info in table.items()}
    return table


def typed(info: TensorInfo, quantization: QuantizationConfig, folder: Path) -> TensorInfo:
    """A tensor as it is meant."""
    if info.dtype != BYTES:
        return info
    type = READABLE[quantization.type_of(info.name)]
    *rows, row_bytes = info.shape or (0,)
    if len(rows) not in (1, 2) or row_bytes % type.nbytes:
        raise CheckpointError(
            f"tensor {info.name!r} in {folder / info.file} is {BYTES} {list(info.shape)}, which "
            f"are no rows of {type.name} blocks of {type.nbytes} bytes",
            hint="config.json and weights do not belong together; write or fetch the model again",
        )
    columns = row_bytes // type.nbytes * type.elements
    return replace(info, dtype=type.name, shape=(*rows, columns))


def single_experts(table: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """The table with every expert's matrices by themselves, as parts of the tensors of all."""
    return {part.name: part for info in table.values() for part in parts_of(info)}


def parts_of(info: TensorInfo) -> Iterator[TensorInfo]:
    """A tensor, or the matrices it stacks; what has another shape is left to those who check."""
    match = STACKED.fullmatch(info.name)
    names = PARTS[match[2]] if match else ()
    if match is None or len(info.shape) != 3 or info.shape[1] % len(names):
        yield info
        return
    count, rows, columns = info.shape
    each = len(names) * count
    if not each:
        return
    for index in range(each):
        expert, part = divmod(index, len(names))
        yield replace(
            info,
            name=f"{match[1]}.{expert}.{names[part]}.weight",
            shape=(rows // len(names), columns),
            nbytes=info.nbytes // each,
            start=info.start + index * (info.nbytes // each),
        )


class BlockFolder(SafetensorsFolder):
    """The tensors of such a folder, mapped."""

    def tensor(self, name: str) -> Tensor:
        """The values; of blocks float32, computed now."""
        info = self.info(name)
        return block_values(self.stored(name), info) if in_blocks(info) else super().tensor(name)

    def stored(self, name: str) -> Tensor:
        """A plain tensor, or the blocks of a row: uint8 [rows, bytes of a row]."""
        import torch

        info = self.info(name)
        if not in_blocks(info):
            return super().stored(name)
        if not info.nbytes:
            return torch.empty((math.prod(info.shape[:-1]), 0), dtype=torch.uint8)
        blocks = torch.frombuffer(self.maps.view(info), dtype=torch.uint8)
        return blocks.view(math.prod(info.shape[:-1]), -1)


def open_folder(folder: Path, quantization: QuantizationConfig | None) -> SafetensorsFolder:
    """The tensors of a folder, which may be in blocks or not. Raises CheckpointError."""
    table = typed_table(folder, quantization)
    if quantization is not None and quantization.method == BLOCKS:
        return BlockFolder(folder, single_experts(table))
    return SafetensorsFolder(folder, table)


def in_blocks(info: TensorInfo) -> bool:
    """Whether a tensor is stored in blocks."""
    return info.dtype in READABLE and not READABLE[info.dtype].plain


def block_values(stored: Tensor, info: TensorInfo) -> Tensor:
    """The numbers of rows of blocks, in the tensor's shape, float32."""
    type = READABLE[info.dtype]
    known = import_module("helexa.engine.quant.blocks.types").BLOCK_TYPES
    blocks = stored.view(*info.shape[:-1], -1, type.nbytes)
    return cast("Tensor", known[info.dtype].dequantise(blocks)).reshape(info.shape)
