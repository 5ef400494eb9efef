"""A plain checkpoint written to a GGUF file, its linear layers in another format."""

from __future__ import annotations

import os
import shutil
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from helexa.engine.checkpoint.checkpoint import Checkpoint, open_checkpoint
from helexa.engine.checkpoint.files import Progress, read_text
from helexa.engine.checkpoint.gguf_export import outgoing_tensors
from helexa.engine.checkpoint.gguf_metadata import gguf_metadata
from helexa.engine.checkpoint.gguf_writer import Outgoing, Value, file_bytes, write_gguf
from helexa.engine.loading import check_whole
from helexa.engine.quant.insitu import NARROWER
from helexa.engine.quant.names import REPLACED, format_of, plain_name
from helexa.errors import CheckpointError, InvalidRequest, UnsupportedModel
from helexa.text.chat_template import find_sources
from helexa.text.gguf_vocabulary import gguf_vocabulary

FILE_TYPES = {
    "F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 7, "Q5_0": 8, "Q4_K": 15, "Q5_K": 17, "Q6_K": 18,
    "BF16": 32,
}  # fmt: skip
"""`general.file_type`: what most of a file's tensors are in."""


@dataclass(frozen=True, slots=True)
class Written:
    """What was written: sizes in bytes, ``tensors`` the number of them in each format."""

    path: Path
    format: str
    nbytes: int
    source_bytes: int
    parameters: int
    tensors: dict[str, int]
    seconds: float

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.nbytes / max(1, self.parameters)


def quantise_to_file(
    model: str | Path,
    to: str | Path,
    quant: str,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
    open_model: Callable[[str | Path], Checkpoint] = open_checkpoint,
) -> Written:
    """Write a model to the GGUF file ``to``, linear layers in the format that ``quant`` names.

    Embeddings stay as they are stored; norms, routers and other small tensors become float32. The
    file takes its name when it is whole. Raises InvalidRequest for a wrong path, PreflightError for
    an unknown format, UnsupportedModel for what GGUF cannot hold, CheckpointError where the file
    cannot be written.
    """
    target, began = Path(to), time.monotonic()
    check_target(target, overwrite=overwrite)
    format = format_of(quant)
    if format is None:
        raise InvalidRequest("no format to quantise to is given", param="to", hint="such as q4_k")
    checkpoint = open_model(model)
    try:
        refuse_quantised(checkpoint)
        check_whole(checkpoint)
        metadata = described(checkpoint, format)
        tensors = outgoing_tensors(checkpoint, format)
        nbytes = file_bytes(metadata, tensors)
        check_room(target, nbytes)
        write(target, metadata, tensors, told(progress, target.name, nbytes))
        infos = [checkpoint.info(name) for name in checkpoint.names()]
        formats = [tensor.type.name for tensor in tensors]
        warn_of_others(quant, format, formats)
        return Written(
            target,
            format,
            nbytes,
            sum(info.nbytes for info in infos),
            sum(tensor.nbytes * tensor.type.elements // tensor.type.nbytes for tensor in tensors),
            {name: formats.count(name) for name in dict.fromkeys(formats)},
            time.monotonic() - began,
        )
    finally:
        checkpoint.close()


def warn_of_others(quant: str, format: str, formats: list[str]) -> None:
    """Warn of a name that stands for another format, and of matrices that got another one."""
    if plain_name(quant) in REPLACED:
        warnings.warn(f"weights are not quantised to {quant}; they get {format}", stacklevel=3)
    smaller = NARROWER.get(format)
    if smaller in formats:
        count = formats.count(smaller)
        warnings.warn(
            f"{count} tensors have no rows of whole {format} blocks: they are {smaller}",
            stacklevel=3,
        )


def check_target(target: Path, *, overwrite: bool) -> None:
    """Raises InvalidRequest for a path that is not to be written to."""
    if target.suffix != ".gguf":
        raise InvalidRequest(f"{target} does not end in .gguf", param="dst", hint="name it so")
    if not target.parent.is_dir():
        raise InvalidRequest(f"there is no folder {target.parent}", param="dst", hint="make it")
    if target.exists() and not overwrite:
        raise InvalidRequest(
            f"{target} exists", param="dst", hint="choose another name, or --force"
        )


def refuse_quantised(checkpoint: Checkpoint) -> None:
    """Raises UnsupportedModel for weights that are not plain."""
    method = checkpoint.config.quantization
    if not checkpoint.quantisable or method is not None:
        raise UnsupportedModel(
            f"{checkpoint.id!r} is quantised already",
            hint="begin with the model's plain weights, in safetensors",
        )


def described(checkpoint: Checkpoint, format: str) -> dict[str, Value]:
    """The metadata of a file: the model, its tokenizer and its chat template."""
    config, files = checkpoint.config, checkpoint.tokenizer_files()
    name = checkpoint.id.rpartition("/")[2] or checkpoint.id
    found = gguf_metadata(config, name) | {"general.file_type": FILE_TYPES[format]}
    text = read_text(files.tokenizer_json) if files.tokenizer_json is not None else None
    if text is None:
        raise CheckpointError(
            f"{checkpoint.id!r} has no tokenizer.json", hint="a GGUF file is nothing without"
        )
    found |= gguf_vocabulary(text, config.vocab_size, checkpoint.id)
    templates = find_sources(files)
    template = templates.get("default") or next(iter(templates.values()), None)
    if template is not None:
        found["tokenizer.chat_template"] = template
    return found


def check_room(target: Path, nbytes: int) -> None:
    """Raises CheckpointError where the disk has less left than the file will take."""
    free = shutil.disk_usage(target.parent).free
    if free < nbytes:
        raise CheckpointError(
            f"{target} would take {nbytes} bytes, {target.parent} has {free} left",
            hint="free some, or write to another disk",
        )


def write(
    target: Path, metadata: dict[str, Value], tensors: list[Outgoing], done: Callable[[int], None]
) -> None:
    """Write the file under another name, which it loses when it is whole."""
    part = target.with_name(f"{target.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        with part.open("xb") as stream:
            write_gguf(stream, metadata, tensors, done)
        part.replace(target)
    except OSError as error:
        raise CheckpointError(
            f"cannot write {target}: {error.strerror or error}",
            hint="see whether the disk is full, and who may write there",
        ) from error
    finally:
        part.unlink(missing_ok=True)


def told(progress: Progress | None, name: str, total: int) -> Callable[[int], None]:
    """Who is told how many bytes are written."""
    return (lambda done: progress(name, done, total)) if progress else (lambda done: None)
