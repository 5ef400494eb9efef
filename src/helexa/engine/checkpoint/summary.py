"""What a model on this machine holds, from its config and the headers of its weights."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from helexa.engine.checkpoint.cache import RepoCache, cache_root
from helexa.engine.checkpoint.counting import PLAIN_DTYPES, QUANTISED_DTYPES, numbers, stays
from helexa.engine.checkpoint.files import CONFIG
from helexa.engine.checkpoint.reference import HubId, parse_reference
from helexa.engine.checkpoint.resolve import on_disk
from helexa.engine.checkpoint.table import read_table
from helexa.engine.config import ModelConfig
from helexa.errors import PreflightError, UnsupportedModel

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class CheckpointSummary:
    """The size and kind of a model; nothing of its weights was read.

    ``tensors`` maps a stored dtype to how many tensors have it, ``bytes`` is that of all tensors,
    ``config`` is None unless it can be run, which ``why_not`` explains. ``quantised_*`` is what
    stays in its format in memory.
    """

    id: str
    folder: Path
    model_type: str
    parameters: int
    tensors: Mapping[str, int]
    bytes: int
    files: tuple[str, ...]
    config: ModelConfig | None
    why_not: str | None
    quantised_parameters: int = 0
    quantised_bytes: int = 0

    @property
    def supported(self) -> bool:
        return self.why_not is None

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
    folder = on_disk(reference)
    if folder is None:
        assert isinstance(reference, HubId)
        root = cache_root(cache_dir, os.environ if environ is None else environ)
        folder = RepoCache(root, reference.org, reference.name).local_snapshot(revision)
        if folder is None:
            raise PreflightError(
                "repo_fetch_failed",
                f"{str(reference)!r} (revision {revision}) is not in {root}",
                hint="fetch it first",
            )
    return summarise(str(reference), folder)


def summarise(name: str, folder: Path) -> CheckpointSummary:
    """The summary of one folder."""
    model_type, config, why_not = judge(name, folder)
    table = read_table(folder)
    method = config.quantization if config is not None else None
    loadable = PLAIN_DTYPES if method is None else (*PLAIN_DTYPES, *QUANTISED_DTYPES)
    unread = sorted(info.name for info in table.values() if info.dtype not in loadable)
    if unread and why_not is None:
        why_not = f"tensor {unread[0]!r} has dtype {table[unread[0]].dtype}"
    kept = [info for info in table.values() if stays(info, method)]
    return CheckpointSummary(
        id=name,
        folder=folder,
        model_type=model_type,
        parameters=sum(numbers(info, method) for info in table.values()),
        tensors=dict(Counter(info.dtype for info in table.values()).most_common()),
        bytes=sum(info.nbytes for info in table.values()),
        files=tuple(sorted({info.file for info in table.values()})),
        config=None if why_not else config,
        why_not=why_not,
        quantised_parameters=sum(numbers(info, method) for info in kept),
        quantised_bytes=sum(info.nbytes for info in kept),
    )


def judge(name: str, folder: Path) -> tuple[str, ModelConfig | None, str | None]:
    """The model's type, its config, or why it cannot be run."""
    try:
        config = ModelConfig.from_file(folder / CONFIG, name)
    except UnsupportedModel as error:
        return claimed_type(folder), None, error.message
    return config.model_type, config, None


def claimed_type(folder: Path) -> str:
    claimed = json.loads((folder / CONFIG).read_text("utf-8")).get("model_type")
    return claimed if isinstance(claimed, str) else "unknown"
