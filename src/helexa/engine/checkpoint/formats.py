"""Which files of a repository make up a model, decided from their names."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Literal

from helexa.engine.checkpoint.table import INDEX, SINGLE
from helexa.errors import DownloadError, PreflightError, UnsupportedModel

if TYPE_CHECKING:
    from collections.abc import Sequence

Format = Literal["diffusers", "mixed", "dense", "gguf", "empty"]

CHOOSE = "choose a text model with safetensors or GGUF weights"
PIPELINE = "model_index.json"
SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
)


def detect_format(files: Sequence[str]) -> Format:
    """What kind of weights a repository with these files has; mixed ones are loaded as dense."""
    dense = any(file.endswith(".safetensors") for file in files)
    gguf = any(file.lower().endswith(".gguf") for file in files)
    if PIPELINE in files:
        return "diffusers"
    if dense:
        return "mixed" if gguf else "dense"
    return "gguf" if gguf else "empty"


def check_format(model: str, files: Sequence[str]) -> None:
    """Raise PreflightError or UnsupportedModel for what has no weights that can be loaded."""
    kind = detect_format(files)
    if kind == "empty":
        raise PreflightError("empty_repo", f"{model!r} holds no weights", hint=CHOOSE)
    if kind == "diffusers":
        raise UnsupportedModel(f"{model!r} is an image pipeline", hint=CHOOSE)


def choose_gguf(files: Sequence[str], quant: str | None = None, *, world_size: int = 1) -> str:
    """The GGUF file to load: the first whose name contains ``quant``, or the first.

    Raises PreflightError of kind `tp_requires_safetensors` or `quant_not_found`.
    """
    found = sorted(
        file
        for file in files
        if file.lower().endswith(".gguf")
        and not PurePosixPath(file).name.lower().startswith("mmproj")
    )
    if world_size > 1:
        raise PreflightError(
            "tp_requires_safetensors",
            f"GGUF weights cannot be split over {world_size} devices",
            available=found,
            hint="use one device, or the safetensors version of this model",
        )
    wanted = (quant or "").lower()
    for file in found:
        name = file.lower()
        if wanted in name or wanted.replace("_", "") in name.replace("_", ""):
            return file
    raise PreflightError(
        "quant_not_found",
        f"no GGUF file for quant {quant!r}" if quant else "no GGUF file with weights",
        available=found,
        hint=f"available: {', '.join(found) or 'none'}",
    )


def small_files(files: Sequence[str]) -> list[str]:
    """Everything wanted but the weights, config.json first, the weights' index included."""
    return [name for name in (*SMALL_FILES, INDEX) if name in files]


def dense_files(files: Sequence[str], shards: Sequence[str]) -> list[str]:
    """The weight files: ``shards`` if an index names some, else the single file."""
    return sorted(set(shards)) if shards else [file for file in files if file == SINGLE]


def check_path(file: str) -> None:
    """Raise DownloadError for a file name that would leave the folder it is put in."""
    path = PurePosixPath(file)
    unsafe = path.is_absolute() or ".." in path.parts or not path.parts
    if unsafe or any(character in file for character in "\\:\0"):
        raise DownloadError(
            f"the repository lists {file!r}, a file name that leaves the model's folder",
            hint="do not use this repository",
        )
