"""A plain checkpoint on its way into another folder of safetensors, linear layers in fewer bits.

What is written here `stored_blocks` reads: all names stay; quantised matrices become bytes.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from helexa.engine.checkpoint.encoding import TORCH, encoded
from helexa.engine.checkpoint.files import CONFIG, read_text
from helexa.engine.checkpoint.formats import SMALL_FILES
from helexa.engine.checkpoint.gguf_export import count_fallbacks
from helexa.engine.checkpoint.gguf_tensors import LAYER, SMALL, by_layer
from helexa.engine.checkpoint.gguf_types import READABLE
from helexa.engine.checkpoint.safetensors_writer import Shard, StoredTensor, index_of, sharded
from helexa.engine.checkpoint.stored_blocks import BYTES, STACKED
from helexa.engine.checkpoint.table import INDEX
from helexa.engine.checkpoint.weights import TIED_HEAD
from helexa.engine.quant.blocks.types import BLOCK_TYPES
from helexa.engine.quant.insitu import fitting
from helexa.engine.quant.names import PLAIN
from helexa.engine.quantization_config import BLOCKS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from torch import Tensor

    from helexa.engine.checkpoint.checkpoint import Checkpoint
    from helexa.engine.checkpoint.table import TensorInfo

LEFT_OUT = re.compile(r"mtp\.|.*\.rotary_emb\.inv_freq$")
"""What no model uses: heads for speculation, and numbers that follow from the config."""
COPY_BYTES = 2**22
NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True, slots=True)
class Export:
    """A tensor of the source and the format it gets."""

    info: TensorInfo
    format: str

    @property
    def blocks(self) -> bool:
        return self.format in BLOCK_TYPES


@dataclass(frozen=True, slots=True)
class FolderExport:
    """A model folder to be written: new weights and config, and the other files of the ``source``.

    Shards are of at most ``shard_bytes`` bytes of tensors, or of one tensor. ``fallbacks`` says how
    many matrices get which other formats than was asked for.
    """

    source: Path
    exports: list[Export]
    config: str
    shards: list[Shard]
    fallbacks: Mapping[str, int]

    @classmethod
    def of(cls, checkpoint: Checkpoint, format: str, shard_bytes: int) -> FolderExport:
        """A plain checkpoint with its linear layers in ``format``."""
        assert checkpoint.folder is not None  # safetensors lie in folders
        found = exports(checkpoint, format)
        tensors = [stored_tensor(checkpoint, export) for export in found]
        config = config_text(checkpoint.folder, found)
        shapes = (export.info.shape for export in found if is_linear(export.info))
        fallbacks = count_fallbacks(format, shapes)
        return cls(checkpoint.folder, found, config, sharded(tensors, shard_bytes), fallbacks)

    @property
    def formats(self) -> list[str]:
        """That of each tensor."""
        return [export.format for export in self.exports]

    @property
    def parameters(self) -> int:
        """Numbers in all."""
        return sum(math.prod(export.info.shape) for export in self.exports)

    @property
    def nbytes(self) -> int:
        """How large the files of weights will be."""
        return sum(shard.nbytes for shard in self.shards)

    @property
    def others(self) -> list[Path]:
        """The files that are copied."""
        paths = [self.source / name for name in SMALL_FILES if name != CONFIG]
        return [path for path in paths if path.is_file()]

    @property
    def needed_bytes(self) -> int:
        """How large all files will be."""
        texts = self.config, index_of(self.shards) or ""
        others = sum(path.stat().st_size for path in self.others)
        return self.nbytes + others + sum(len(text.encode()) for text in texts)

    def write(self, folder: Path, done: Callable[[int], None]) -> None:
        """Make the folder and fill it; ``done`` is told the bytes of weights written so far."""
        folder.mkdir()
        for path in self.others:
            shutil.copyfile(path, folder / path.name)
        (folder / CONFIG).write_text(self.config, "utf-8")
        if index := index_of(self.shards):
            (folder / INDEX).write_text(index, "utf-8")
        written = 0

        def add(nbytes: int) -> None:
            nonlocal written
            written += nbytes
            done(written)

        for shard in self.shards:
            shard.write(folder, add)


def exports(checkpoint: Checkpoint, format: str) -> list[Export]:
    """All tensors in the order of layers: those of linear layers in ``format``, as `quant` does.

    A vision tower's stay as they are.
    """
    names = sorted(checkpoint.names(), key=by_layer)
    left_out = {name for name in names if LEFT_OUT.match(name)}
    if checkpoint.tied:
        left_out.add(TIED_HEAD)
    infos = [checkpoint.info(name) for name in names if name not in left_out]
    return [Export(info, format_for(info, format)) for info in infos]


def format_for(info: TensorInfo, format: str) -> str:
    """The format that a tensor gets."""
    if not is_linear(info):
        return info.dtype
    if format in PLAIN:
        return format
    type = fitting(BLOCK_TYPES[format], info.shape[-1])
    return type.name if type is not None else info.dtype


def is_linear(info: TensorInfo) -> bool:
    """Whether a tensor is the matrix of a linear layer, or those of a layer's experts."""
    inner = info.name.replace("model.language_model.", "model.")
    layer = LAYER.fullmatch(inner)
    if layer is None:
        return inner == TIED_HEAD
    if STACKED.fullmatch(inner):
        return len(info.shape) == 3
    module, _, kind = layer[2].rpartition(".")
    return kind == "weight" and len(info.shape) == 2 and not module.endswith(SMALL)


def stored_tensor(checkpoint: Checkpoint, export: Export) -> StoredTensor:
    """A tensor as the new folder has it."""
    info, type = export.info, READABLE.get(export.format)
    if export.format == info.dtype or type is None:
        return StoredTensor(
            info.name, info.dtype, info.shape, info.nbytes, copied(checkpoint, info)
        )
    row = type.row_bytes(info.shape[-1]) if export.blocks else info.shape[-1]
    return StoredTensor(
        info.name,
        BYTES if export.blocks else type.name,
        (*info.shape[:-1], row),
        type.tensor_bytes(info.shape),
        pieces(checkpoint, export),
    )


def copied(checkpoint: Checkpoint, info: TensorInfo) -> Callable[[], Iterator[bytes]]:
    """The bytes of a tensor as its file has them."""

    def read() -> Iterator[bytes]:
        assert checkpoint.folder is not None
        with (checkpoint.folder / info.file).open("rb") as stream:
            stream.seek(info.start)
            left = info.nbytes
            while left and (piece := stream.read(min(left, COPY_BYTES))):
                left -= len(piece)
                yield piece

    return read


def pieces(checkpoint: Checkpoint, export: Export) -> Callable[[], Iterator[memoryview]]:
    """The bytes of matrices in another format; of experts one is read after the other."""
    info, format = export.info, export.format

    def parts() -> Iterator[Tensor]:
        if len(info.shape) == 2:
            yield checkpoint.tensor(info.name)
            return
        for expert in range(info.shape[0]):
            yield checkpoint.slice(info.name, 0, expert, 1)

    def encode() -> Iterator[memoryview]:
        for part in parts():
            yield from encoded(part, BLOCK_TYPES.get(format), TORCH.get(format))

    return encode


def config_text(folder: Path, written: list[Export]) -> str:
    """The source's config.json, which says in addition how matrices are stored."""
    config: dict[str, Any] = json.loads(read_text(folder / CONFIG) or "{}")
    config.pop("quantization_config", None)
    types = {export.info.name: export.format for export in written if export.blocks}
    if types:
        config["quantization_config"] = section(types)
    return json.dumps(config, indent=2, ensure_ascii=False) + "\n"


def section(types: Mapping[str, str]) -> dict[str, Any]:
    """The `quantization_config` of tensors with these block types (see `read_blocks`)."""
    most = Counter(types.values()).most_common(1)[0][0]
    found: dict[str, Any] = {"quant_method": BLOCKS, "block_type": most}
    others = {name: type for name, type in types.items() if type != most}
    if others:
        found["exceptions"] = patterns(types, others)
    return found


def patterns(types: Mapping[str, str], others: Mapping[str, str]) -> dict[str, str]:
    """The types of ``others`` by name, those of all layers at once where they are alike."""
    alike: dict[str, set[str]] = {}
    for name, type in types.items():
        alike.setdefault(NUMBER.sub("*", name), set()).add(type)
    short = {name: NUMBER.sub("*", name) for name in others}
    return {
        short[name] if len(alike[short[name]]) == 1 else name: type for name, type in others.items()
    }
