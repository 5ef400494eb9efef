"""What can be said of a model before a byte of its weights is read: from the names of its files."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

from helexa.engine.quant.names import FORMATS, SHOWN, plain_name
from helexa.errors import PreflightError

FormatKind = Literal["diffusers", "mixed", "dense_safetensors", "gguf", "empty"]

PIPELINE = "model_index.json"
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class RepoFormat:
    """What kind of weights a repository has; ``quants`` are the names of its GGUF files."""

    kind: FormatKind
    quants: tuple[str, ...] = ()
    sharded: bool = False

    def to_json(self) -> dict[str, Any]:
        """Its kind, and what belongs to that kind."""
        said: dict[FormatKind, dict[str, Any]] = {
            "gguf": {"quants": list(self.quants)},
            "mixed": {"gguf_quants": list(self.quants)},
            "dense_safetensors": {"sharded": self.sharded},
        }
        return {"kind": self.kind, **said.get(self.kind, {})}


@dataclass(frozen=True, slots=True)
class Plan:
    """How a model will be loaded; ``picked_quant_file`` is the GGUF file, if it is one."""

    model_id: str
    format: RepoFormat
    tp_size: int
    picked_quant_file: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "model_id": self.model_id,
            "format": self.format.to_json(),
            "tp_size": self.tp_size,
            "picked_quant_file": self.picked_quant_file,
        }


def classify(files: Sequence[str]) -> RepoFormat:
    """The format of a repository with these files."""
    names = [file.lower() for file in files]
    gguf = tuple(sorted({file.lower() for file in gguf_files(files)}))
    if PIPELINE in names:
        return RepoFormat("diffusers")
    if any(name.endswith(".safetensors") for name in names):
        if gguf:
            return RepoFormat("mixed", gguf)
        return RepoFormat("dense_safetensors", sharded=any(n.endswith(INDEX) for n in names))
    return RepoFormat("gguf", gguf) if gguf else RepoFormat("empty")


def gguf_files(files: Sequence[str]) -> list[str]:
    """The GGUF files with a language model in them, sorted; projectors of images are left out."""
    return sorted(
        file
        for file in files
        if file.lower().endswith(".gguf")
        and not PurePosixPath(file).name.lower().startswith("mmproj")
    )


def pick_gguf(files: Sequence[str], quant: str | None) -> str | None:
    """The first file whose name contains ``quant``, with or without `_`; without one, the first."""
    wanted = (quant or "").lower()
    for file in gguf_files(files):
        name = file.lower()
        if wanted in name or wanted.replace("_", "") in name.replace("_", ""):
            return file
    return None


def quant_tag(file: str) -> str:
    """What a file's name says of its format: the last part of the stem, between `-`."""
    stem = PurePosixPath(file).name.lower().removesuffix(".gguf")
    return stem.rpartition("-")[2]


def distance(left: str, right: str) -> int:
    """How many characters must be added, removed or replaced to make one text the other.

    Source: Wagner and Fischer, The String-to-String Correction Problem, 1974.
    """
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        previous, row[0] = row[0], i
        for j, b in enumerate(right, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (a != b))
    return row[-1]


def nearest(requested: str, available: Sequence[str]) -> str | None:
    """The tag of those available that is most like the one requested, the first of equals."""
    if not requested:
        return None
    tags = [quant_tag(name) for name in available]
    return min(tags, key=lambda tag: distance(requested.lower(), tag), default=None)


def make_plan(
    model_id: str,
    files: Sequence[str],
    *,
    quant: str | None = None,
    tp_size: int = 1,
    more_quants: Collection[str] = (),
) -> Plan:
    """Decide how to load a model, or that it cannot be; ``more_quants`` is what the engine adds.

    ``model_id`` is the qualified id. Raises PreflightError of kind `empty_repo`,
    `tp_requires_safetensors` or `quant_not_found`.
    """
    format = classify(files)
    if format.kind == "empty":
        raise refusal("empty_repo", f"{model_id!r} holds no weights", model_id=model_id)
    if format.kind in ("gguf", "diffusers") and tp_size > 1:
        raise needs_safetensors(model_id, tp_size, format.quants)
    picked = None
    if format.kind == "gguf":
        picked = pick_gguf(files, quant)
        if picked is None:
            raise no_such_quant(model_id, quant or "", format.quants)
    elif quant and format.kind != "diffusers" and not is_known(quant, more_quants):
        raise no_such_quant(model_id, quant, (*SHOWN, *more_quants))
    return Plan(model_id, format, tp_size, picked)


def is_known(quant: str, more: Collection[str]) -> bool:
    """Whether dense weights can be turned into this format; case, `_` and `-` do not matter."""
    return plain_name(quant) in {*FORMATS, *map(plain_name, more)}


def needs_safetensors(model_id: str, tp_size: int, quants: Sequence[str]) -> PreflightError:
    suggestion = "load it on one device, or load the safetensors version of this model"
    return refusal(
        "tp_requires_safetensors",
        f"{model_id!r} has no safetensors weights, which {tp_size} devices need",
        suggestion,
        model_id=model_id,
        tp_size=tp_size,
        gguf_quants=list(quants),
        suggestion=suggestion,
    )


def no_such_quant(model_id: str, requested: str, available: Sequence[str]) -> PreflightError:
    like = nearest(requested, available)
    return refusal(
        "quant_not_found",
        f"{model_id!r} cannot be had as {requested!r}",
        f"available: {', '.join(available)}",
        model_id=model_id,
        requested=requested,
        available=list(available),
        nearest=like,
    )


def fetch_failed(model_id: str, cause: str) -> PreflightError:
    """Neither the source nor a copy on this machine says what the model consists of."""
    text = f"cannot find out what {model_id!r} consists of: {cause}"
    return refusal("repo_fetch_failed", text, model_id=model_id, cause=cause)


def refusal(kind: str, text: str, hint: str = "", **details: object) -> PreflightError:
    return PreflightError(kind, text, hint=hint, details=details)


def cold_capabilities(files: Sequence[str], config: str | None) -> list[str]:
    """What a model that is not loaded can do; ``config`` is the text of its config.json."""
    format = classify(files)
    if format.kind == "diffusers":
        return ["image"]
    if format.kind == "empty":
        return []
    return ["text", "vision"] if has_vision(config) else ["text"]


def has_vision(config: str | None) -> bool:
    try:
        parsed = json.loads(config or "null")
    except (ValueError, RecursionError):
        return False
    return isinstance(parsed, dict) and "vision_config" in parsed
