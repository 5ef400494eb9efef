"""An opened model: its config, its tensors and the files of its text layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from helexa.engine.checkpoint.files import CONFIG, GENERATION_CONFIG, TokenizerFiles, read_text
from helexa.engine.checkpoint.gguf import GGUFCheckpoint
from helexa.engine.checkpoint.resolve import resolve_model
from helexa.engine.checkpoint.stored_blocks import open_folder
from helexa.engine.checkpoint.table import TensorInfo
from helexa.engine.config import ModelConfig

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from torch import Tensor

    from helexa.engine.checkpoint.files import Progress
    from helexa.engine.checkpoint.reference import Named


class Checkpoint(Protocol):
    """What a loader needs of a model, whatever format it is stored in.

    Names are Hugging Face's. ``tensor`` and ``slice`` give values, usually views of a memory map;
    ``stored`` gives what the file holds, which for block formats are the blocks. All raise
    CheckpointError for a tensor that is absent or cannot be read. ``path`` opens it again: its
    folder, or its GGUF file. ``quantisable`` says whether a `quant` is a format for its weights;
    of GGUF it has chosen the file.
    """

    @property
    def id(self) -> str: ...
    @property
    def folder(self) -> Path | None: ...
    @property
    def path(self) -> Path: ...
    @property
    def quantisable(self) -> bool: ...
    @property
    def config(self) -> ModelConfig: ...
    @property
    def generation_config(self) -> str | None: ...
    @property
    def tied(self) -> bool: ...
    def names(self) -> Iterable[str]: ...
    def info(self, name: str) -> TensorInfo: ...
    def tensor(self, name: str) -> Tensor: ...
    def slice(self, name: str, dim: int, start: int, length: int) -> Tensor: ...
    def stored(self, name: str) -> Tensor: ...
    def tokenizer_files(self) -> TokenizerFiles: ...
    def close(self) -> None: ...


class SafetensorsCheckpoint:
    """A folder in Hugging Face's layout with safetensors weights."""

    def __init__(self, id: str, folder: Path) -> None:
        self.id = id
        self.folder: Path | None = folder
        self.path = folder
        self.quantisable = True
        self.config = ModelConfig.from_file(folder / CONFIG, id)
        self.generation_config = read_text(folder / GENERATION_CONFIG)
        self.weights = open_folder(folder, self.config.quantization)
        self.files = TokenizerFiles.of(folder)

    @property
    def tied(self) -> bool:
        """Whether the output projection is the embedding table."""
        return self.config.tie_word_embeddings or not any(
            name.startswith("lm_head.") for name in self.weights.table
        )

    def names(self) -> Iterable[str]:
        return self.weights.table.keys()

    def info(self, name: str) -> TensorInfo:
        return self.weights.info(name)

    def tensor(self, name: str) -> Tensor:
        return self.weights.tensor(name)

    def slice(self, name: str, dim: int, start: int, length: int) -> Tensor:
        return self.weights.slice(name, dim, start, length)

    def stored(self, name: str) -> Tensor:
        return self.weights.stored(name)

    def tokenizer_files(self) -> TokenizerFiles:
        return self.files

    def close(self) -> None:
        self.weights.close()


def open_checkpoint(
    model: Named,
    *,
    revision: str = "main",
    cache_dir: str | Path | None = None,
    offline: bool = False,
    token: str | None = None,
    progress: Progress | None = None,
    environ: Mapping[str, str] | None = None,
) -> Checkpoint:
    """Find ``model``, fetch what is missing of it, and open it; no weight is read yet.

    ``environ`` defaults to the process's. Raises PreflightError if it cannot
    be had, DownloadError if a transfer fails, UnsupportedModel or CheckpointError for what is
    found.
    """
    found = resolve_model(
        model,
        revision=revision,
        cache_dir=cache_dir,
        offline=offline,
        token=token,
        progress=progress,
        environ=environ,
    )
    opened = GGUFCheckpoint if found.is_gguf else SafetensorsCheckpoint
    return opened(found.name, found.path)
