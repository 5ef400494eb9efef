"""What a model on this machine holds, from its config and the headers of its weights."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from helexa.engine.checkpoint.cache import RepoCache, cache_root
from helexa.engine.checkpoint.counting import PLAIN_DTYPES, QUANTISED_DTYPES, numbers, stays
from helexa.engine.checkpoint.files import CONFIG
from helexa.engine.checkpoint.gguf_config import gguf_config
from helexa.engine.checkpoint.gguf_file import read_gguf
from helexa.engine.checkpoint.gguf_types import READABLE
from helexa.engine.checkpoint.packed import as_meant, packed_matrices
from helexa.engine.checkpoint.reference import HubId, parse_reference
from helexa.engine.checkpoint.resolve import in_folder, is_gguf, on_disk
from helexa.engine.checkpoint.stored_blocks import typed_table
from helexa.engine.checkpoint.table import TensorInfo, read_table
from helexa.engine.config import ModelConfig
from helexa.engine.memory import SMALL_MATRIX
from helexa.errors import PreflightError, UnsupportedModel

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

Judgement = tuple[str, ModelConfig | None, str | None]
"""A model's type, its config, or why it cannot be run."""


@dataclass(frozen=True, slots=True)
class CheckpointSummary:
    """The size and kind of a model; nothing of its weights was read.

    ``path`` is its folder or GGUF file. ``infos`` are its tensors, under the names they are stored
    by, but matrices that are packed to words as what they mean, with all that belongs to them;
    ``tensors`` maps a dtype to how many have it, ``bytes`` is that of all. ``config`` is None
    unless it can be run, which ``why_not`` explains. ``quantised_parameters`` stay in their format,
    in ``quantised_bytes`` of memory; a CPU that multiplies in 16 bits has ``table_bytes`` more.
    Of a quantised model a CPU keeps other matrices, of ``narrow_parameters``, in their 16 bits.
    """

    id: str
    path: Path
    model_type: str
    parameters: int
    tensors: Mapping[str, int]
    bytes: int
    files: tuple[str, ...]
    infos: tuple[TensorInfo, ...] = field(repr=False)
    config: ModelConfig | None
    why_not: str | None
    quantised_parameters: int = 0
    quantised_bytes: int = 0
    table_bytes: int = 0
    narrow_parameters: int = 0

    @property
    def supported(self) -> bool:
        return self.why_not is None

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return self.path.parent if is_gguf(self.path) else self.path

    @property
    def bits_per_weight(self) -> float:
        """Scales and all that belongs to the weights included."""
        return 8 * self.bytes / max(1, self.parameters)


def inspect_checkpoint(
    model: str | Path,
    *,
    revision: str = "main",
    cache_dir: str | Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> CheckpointSummary:
    """Summarise a built-in model, a folder, or a hub model that was fetched before.

    Nothing is fetched. Raises PreflightError if the model is not here, CheckpointError if it is
    damaged; a model that is whole but cannot be run is no error.
    """
    reference = parse_reference(model)
    path = on_disk(reference)
    if path is None:
        assert isinstance(reference, HubId)
        root = cache_root(cache_dir, os.environ if environ is None else environ)
        path = RepoCache(root, reference.org, reference.name).local_snapshot(revision)
        if path is None:
            raise PreflightError(
                "repo_fetch_failed",
                f"{str(reference)!r} (revision {revision}) is not in {root}",
                hint="fetch it first",
            )
    return summarise(str(reference), path)


def summarise(name: str, path: Path) -> CheckpointSummary:
    """The summary of one folder, of the GGUF file in it that would be loaded, or of such a file."""
    path = path if is_gguf(path) else in_folder(path, name, None)
    if is_gguf(path):
        return summary_of(name, path, judge_gguf(path), read_gguf(path).tensors, READABLE.keys())
    judged = judge(name, path)
    quantization = judged[1].quantization if judged[1] is not None else None
    if quantization is None:
        return summary_of(name, path, judged, read_table(path), PLAIN_DTYPES)
    loadable = (*READABLE, *QUANTISED_DTYPES)
    return summary_of(name, path, judged, typed_table(path, quantization), loadable)


def summary_of(
    name: str,
    path: Path,
    judged: Judgement,
    table: Mapping[str, TensorInfo],
    loadable: Collection[str],
) -> CheckpointSummary:
    """The summary of a model that has these tensors."""
    model_type, config, why_not = judged
    method = config.quantization if config is not None else None
    unread = sorted(info.name for info in table.values() if info.dtype not in loadable)
    if unread and why_not is None:
        why_not = f"tensor {unread[0]!r} has dtype {table[unread[0]].dtype}"
    kept = [
        info for info in table.values() if info.dtype not in PLAIN_DTYPES or stays(info, method)
    ]
    matrices = packed_matrices(table, method)
    infos = tuple(as_meant(table, matrices))
    packed = sum(part.nbytes for matrix in matrices.values() for part in matrix.parts)
    held = sum(matrix.held_bytes for matrix in matrices.values())
    return CheckpointSummary(
        id=name,
        path=path,
        model_type=model_type,
        parameters=sum(numbers(info, method) for info in table.values()),
        tensors=dict(Counter(info.dtype for info in infos).most_common()),
        bytes=sum(info.nbytes for info in table.values()),
        files=tuple(sorted({info.file for info in table.values()})),
        infos=infos,
        config=None if why_not else config,
        why_not=why_not,
        quantised_parameters=sum(numbers(info, method) for info in kept),
        quantised_bytes=sum(info.nbytes for info in kept) - packed + held,
        narrow_parameters=sum(map(narrow_numbers, table.values())) if kept else 0,
        table_bytes=sum(matrix.table_bytes for matrix in matrices.values()),
    )


def narrow_numbers(info: TensorInfo) -> int:
    """The numbers of a large matrix of 16 bits; 0 of any other tensor."""
    count = math.prod(info.shape)
    large = len(info.shape) == 2 and count >= SMALL_MATRIX
    return count if large and info.dtype in ("F16", "BF16") else 0


def judge(name: str, folder: Path) -> Judgement:
    """What a folder's config.json says."""
    try:
        config = ModelConfig.from_file(folder / CONFIG, name)
    except UnsupportedModel as error:
        return claimed_type(folder), None, error.message
    return config.model_type, config, None


def judge_gguf(path: Path) -> Judgement:
    """What the metadata of a GGUF file say."""
    head = read_gguf(path)
    try:
        config = gguf_config(head)
    except UnsupportedModel as error:
        return str(head.metadata.get("general.architecture", "unknown")), None, error.message
    return config.model_type, config, None


def claimed_type(folder: Path) -> str:
    claimed = json.loads((folder / CONFIG).read_text("utf-8")).get("model_type")
    return claimed if isinstance(claimed, str) else "unknown"
