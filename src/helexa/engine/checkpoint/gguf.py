"""A GGUF file as a checkpoint: its tensors under Hugging Face names, in the order those imply.

Blocks stay as they are stored; torch is imported with the first tensor.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING

from helexa.engine.checkpoint.files import GENERATION_CONFIG
from helexa.engine.checkpoint.gguf_config import gguf_config, read_architecture
from helexa.engine.checkpoint.gguf_file import check_types, read_gguf
from helexa.engine.checkpoint.gguf_folder import text_around, tokenizer_files
from helexa.engine.checkpoint.gguf_names import ROPE_DIVISORS, tensor_places
from helexa.engine.checkpoint.gguf_types import READABLE
from helexa.engine.checkpoint.maps import Maps
from helexa.engine.checkpoint.stored_blocks import block_values
from helexa.engine.checkpoint.table import FETCH_AGAIN
from helexa.engine.fields import Fields
from helexa.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import torch
    from torch import Tensor

    from helexa.engine.checkpoint.files import TokenizerFiles
    from helexa.engine.checkpoint.gguf_names import Place
    from helexa.engine.checkpoint.table import TensorInfo

TORCH_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
MAX_DIVISORS = 4096
PERMUTED = frozenset({"llama"})
"""Architectures whose rows of q and k are in the order of interleaved rotation."""


class GGUFCheckpoint:
    """A GGUF file, or all parts of a split one, memory mapped.

    ``info`` has the type's name (`Q4_K`) and the logical shape [N, K]. Raises UnsupportedModel and
    CheckpointError, also for a type that cannot be read, before any weight is.
    """

    def __init__(self, id: str, path: Path) -> None:
        self.id = id
        self.path = path
        self.folder: Path | None = path.parent
        self.quantisable = False
        self.file = read_gguf(path)
        self.maps = Maps(path.parent)
        architecture = read_architecture(Fields(f"the metadata of {path}", self.file.metadata))
        check_types(self.file)
        self.config = gguf_config(self.file, self.divisors())
        heads = self.config.num_attention_heads, self.config.num_key_value_heads
        self.places = tensor_places(
            self.file.tensors,
            self.config.num_hidden_layers,
            heads if architecture in PERMUTED else None,
        )
        self.generation_config = text_around(path, GENERATION_CONFIG)

    @property
    def tied(self) -> bool:
        """Whether the output projection is the embedding table."""
        return self.config.tie_word_embeddings

    def names(self) -> Iterable[str]:
        return self.places.keys()

    def place(self, name: str) -> Place:
        try:
            return self.places[name]
        except KeyError:
            raise CheckpointError(
                f"tensor {name!r} is missing from {self.path}",
                hint="metadata and tensors do not belong together; fetch the model again",
            ) from None

    def info(self, name: str) -> TensorInfo:
        return self.place(name).info

    def tensor(self, name: str) -> Tensor:
        """The values; of a plain type a view of the map, else float32, computed now."""
        info = self.info(name)
        stored = self.stored(name)
        return stored if info.dtype in TORCH_NAMES else block_values(stored, info)

    def slice(self, name: str, dim: int, start: int, length: int) -> Tensor:
        """Indices start … start + length of axis ``dim`` of the values."""
        return self.tensor(name).narrow(dim, start, length)

    def stored(self, name: str) -> Tensor:
        """A plain tensor, or the blocks of a row: uint8 [rows, bytes of a row]."""
        import torch

        place = self.place(name)
        info, type = place.info, READABLE[place.info.dtype]
        dtype: torch.dtype = getattr(torch, TORCH_NAMES.get(info.dtype, "uint8"))
        shape = info.shape if type.plain else (math.prod(info.shape[:-1]), -1)
        if not info.nbytes:
            return torch.empty(info.shape, dtype=dtype)
        buffer: memoryview | bytearray = self.maps.view(info)
        if info.start % dtype.itemsize:  # torch wants aligned elements
            buffer = bytearray(buffer)
        found = torch.frombuffer(buffer, dtype=dtype).view(shape)
        if place.heads and len(found) % (2 * place.heads):
            raise CheckpointError(
                f"tensor {name!r} in {self.path} has {len(found)} rows, no pairs in each of "
                f"{place.heads} heads",
                hint=FETCH_AGAIN,
            )
        return in_halves(found, place.heads) if place.heads else found

    def divisors(self) -> tuple[float, ...]:
        """What the rotary frequencies are to be divided by, empty if nothing is."""
        info = self.file.tensors.get(ROPE_DIVISORS)
        if info is None:
            return ()
        count = math.prod(info.shape)
        if info.dtype != "F32" or count > MAX_DIVISORS:
            raise CheckpointError(
                f"tensor {ROPE_DIVISORS!r} in {self.path} is {info.dtype} {list(info.shape)}",
                hint=f"at most {MAX_DIVISORS} numbers of F32 are expected",
            )
        found: tuple[float, ...] = struct.unpack(f"<{count}f", self.maps.view(info))
        if not all(math.isfinite(value) and value > 0 for value in found):
            raise CheckpointError(
                f"tensor {ROPE_DIVISORS!r} in {self.path} holds numbers that divide nothing",
                hint=FETCH_AGAIN,
            )
        return found

    def tokenizer_files(self) -> TokenizerFiles:
        return tokenizer_files(self.path, self.file.metadata)

    def close(self) -> None:
        """Forget the maps; each is unmapped with the last tensor that views it."""
        self.maps.close()


def in_halves(rows: Tensor, heads: int) -> Tensor:
    """Rows [N, …] of heads whose pairs lie side by side → first halves, then second halves, a copy.

    Of the D rows of a head, 2i and 2i + 1 rotate together in the file, i and i + D/2 with us.
    """
    tail = rows.shape[1:]
    return rows.view(heads, -1, 2, *tail).transpose(1, 2).reshape(rows.shape)
