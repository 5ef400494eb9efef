"""A plain checkpoint written to a GGUF file or a model folder, its linear layers in fewer bits."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from helexa.engine.checkpoint.checkpoint import Checkpoint, open_checkpoint
from helexa.engine.checkpoint.files import (
    CONFIG,
    GENERATION_CONFIG,
    Progress,
    TokenizerFiles,
    read_text,
)
from helexa.engine.checkpoint.gguf_config import END_IDS
from helexa.engine.checkpoint.gguf_ends import gguf_ends
from helexa.engine.checkpoint.gguf_export import FileExport
from helexa.engine.checkpoint.gguf_metadata import gguf_metadata
from helexa.engine.checkpoint.gguf_types import READABLE
from helexa.engine.checkpoint.gguf_writer import Value
from helexa.engine.checkpoint.output import (
    check_room,
    check_target,
    clear_dead,
    is_file_name,
    whole,
)
from helexa.engine.checkpoint.reference import Named, Offer, Variant
from helexa.engine.checkpoint.safetensors_export import FolderExport
from helexa.engine.checkpoint.safetensors_writer import SHARD_BYTES
from helexa.engine.config import ModelConfig
from helexa.engine.end_tokens import end_tokens
from helexa.engine.hybrid_config import HYBRIDS
from helexa.engine.loading import check_whole
from helexa.engine.params import GenerationDefaults
from helexa.engine.quant.blocks.types import BLOCK_TYPES
from helexa.engine.quant.insitu import told_fallbacks
from helexa.engine.quant.names import REPLACED, format_of, plain_name
from helexa.errors import CheckpointError, InvalidRequest, UnsupportedModel
from helexa.text.chat_template import find_sources
from helexa.text.gguf_vocabulary import gguf_vocabulary

FILE_TYPES = {
    "F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 7, "Q5_0": 8, "Q4_K": 15, "Q5_K": 17, "Q6_K": 18,
    "BF16": 32,
}  # fmt: skip
"""`general.file_type`: what most of a file's tensors are in."""
STORED_BITS = {"bfloat16": 16, "float16": 16}


@dataclass(frozen=True, slots=True)
class Written:
    """What was written: sizes in bytes, ``tensors`` the number of them in each format.

    ``path`` is the file or the folder, ``files`` are the names of those with weights.
    """

    path: Path
    format: str
    files: tuple[str, ...]
    nbytes: int
    source_bytes: int
    parameters: int
    tensors: dict[str, int]
    seconds: float

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.nbytes / max(1, self.parameters)


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be written where: ``path`` has no links in it, ``shown`` is what was asked for."""

    shown: Path
    path: Path
    format: str
    shard_bytes: int

    @classmethod
    def of(cls, to: str | Path, quant: str, *, overwrite: bool, shard_bytes: int) -> Job:
        """Raises InvalidRequest for a wrong path, PreflightError for an unknown format."""
        format = format_of(quant)
        if format is None:
            raise InvalidRequest(
                "no format to quantise to is given", param="to", hint="such as q4_k"
            )
        path = Path(os.path.realpath(Path(to)))
        check_target(path, overwrite=overwrite)
        return cls(Path(to), path, format, shard_bytes)

    @property
    def as_gguf(self) -> bool:
        """Whether it becomes a GGUF file, and not a folder."""
        return is_file_name(self.path)

    def judge(self, offer: Offer) -> None:
        """Refuse what a hub offers, as far as can be known before its weights are fetched."""
        if offer.folder is None:
            raise already_quantised(offer.model)
        config = ModelConfig.from_file(offer.folder / CONFIG, offer.model)
        if config.quantization is not None:
            raise already_quantised(offer.model)
        if self.as_gguf:
            files = TokenizerFiles.of(offer.folder)
            generation = read_text(offer.folder / GENERATION_CONFIG)
            described(config, files, offer.model, self.format, generation)
        check_room(self.path, least_bytes(config, offer.measure(), self.format))

    def export(self, checkpoint: Checkpoint) -> FileExport | FolderExport:
        """What is to be written, once the weights are there. Raises LoadError."""
        if not checkpoint.quantisable or checkpoint.config.quantization is not None:
            raise already_quantised(checkpoint.id)
        if checkpoint.folder is not None and checkpoint.folder.resolve() == self.path:
            raise same_folder(self.shown)
        check_whole(checkpoint)
        if not self.as_gguf:
            folder = FolderExport.of(checkpoint, self.format, self.shard_bytes)
            check_room(self.path, folder.needed_bytes)
            return folder
        files = checkpoint.tokenizer_files()
        found = described(
            checkpoint.config, files, checkpoint.id, self.format, checkpoint.generation_config
        )
        file = FileExport.of(checkpoint, self.format, found.metadata)
        check_room(self.path, file.nbytes)
        for sentence in found.untold:
            warnings.warn(sentence, stacklevel=3)
        return file


def quantise_to_file(
    model: str | Path,
    to: str | Path,
    quant: str,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
    open_model: Callable[[Named], Checkpoint] = open_checkpoint,
    shard_bytes: int = SHARD_BYTES,
) -> Written:
    """Write a model to ``to``, with linear layers in the format that ``quant`` names.

    What ends in `.gguf` becomes a GGUF file, in which norms, routers and other small tensors are
    float32; anything else a model folder in safetensors, of files of at most ``shard_bytes`` bytes.
    Embeddings stay as they are stored. Nothing has its name before it is whole. What can be refused
    before a hub's weights are fetched, is. Raises InvalidRequest for a wrong path, PreflightError
    for an unknown format, UnsupportedModel for what cannot be written, CheckpointError where it
    cannot be.
    """
    began = time.monotonic()
    if os.path.isdir(model) and os.path.realpath(model) == os.path.realpath(to):
        raise same_folder(Path(to))
    job = Job.of(to, quant, overwrite=overwrite, shard_bytes=shard_bytes)
    clear_dead(job.path)  # before room is looked for
    checkpoint = open_model(Variant(model, judge=job.judge))
    try:
        export = job.export(checkpoint)
        with whole(job.path, overwrite=overwrite) as part:
            export.write(part, told(progress, job.path.name, export.nbytes))
        warn_of_others(quant, job.format, export.fallbacks)
        return Written(
            job.shown,
            job.format,
            tuple(shard.file for shard in export.shards)
            if isinstance(export, FolderExport)
            else (job.shown.name,),
            export.nbytes,
            sum(checkpoint.info(name).nbytes for name in checkpoint.names()),
            export.parameters,
            {name: export.formats.count(name) for name in dict.fromkeys(export.formats)},
            time.monotonic() - began,
        )
    finally:
        checkpoint.close()


def warn_of_others(quant: str, format: str, fallbacks: Mapping[str, int]) -> None:
    """Warn of a name that stands for another format, and of matrices that got another one."""
    if plain_name(quant) in REPLACED:
        warnings.warn(f"weights are not quantised to {quant}; they get {format}", stacklevel=3)
    if fallbacks:
        warnings.warn(told_fallbacks(BLOCK_TYPES[format], fallbacks), stacklevel=3)


def same_folder(folder: Path) -> InvalidRequest:
    return InvalidRequest(f"{folder} is the model itself", param="dst", hint="choose another name")


def already_quantised(model: str) -> UnsupportedModel:
    return UnsupportedModel(
        f"{model!r} is quantised already",
        hint="begin with the model's plain weights, in safetensors",
    )


@dataclass(frozen=True, slots=True)
class Described:
    """The metadata of a GGUF file, and what they do not say, in sentences."""

    metadata: dict[str, Value]
    untold: tuple[str, ...]


def described(
    config: ModelConfig, files: TokenizerFiles, model: str, format: str, generation: str | None
) -> Described:
    """The model, its tokenizer and its chat template as metadata.

    ``generation`` is the text of its generation_config.json: which tokens end an answer.
    """
    name = model.rpartition("/")[2] or model
    found = gguf_metadata(config, name) | {"general.file_type": FILE_TYPES[format]}
    text = read_text(files.tokenizer_json) if files.tokenizer_json is not None else None
    if text is None:
        raise CheckpointError(
            f"{model!r} has no tokenizer.json",
            hint="a GGUF file is nothing without; a folder can be written, named without .gguf",
        )
    vocabulary, differences = gguf_vocabulary(text, config.vocab_size, model)
    eos = vocabulary.get(END_IDS[0])
    texts = end_tokens(config, files, GenerationDefaults.from_json(generation))
    ends, left = gguf_ends(texts, eos if isinstance(eos, int) else None)
    found |= vocabulary
    found |= ends
    templates = find_sources(files)
    template = templates.get("default") or next(iter(templates.values()), None)
    if template is not None:
        found["tokenizer.chat_template"] = template
    untold = []
    if differences:
        untold.append(
            "its tokenizer is none that has a name in GGUF here: helexa reads it whole from the "
            f"file, other programs may {', and '.join(differences)}"
        )
    if left:
        told = ", ".join(f"{id} ({texts[id]})" if texts[id] else str(id) for id in left)
        untold.append(
            "GGUF has three keys for tokens that end an answer: with the file none ends on "
            f"{told}, unless requests ask for it"
        )
    return Described(found, tuple(untold))


def least_bytes(config: ModelConfig, weight_bytes: int | None, format: str) -> int:
    """What quantised weights take at least; 0 if that cannot be known from the plain ones' size.

    Some tensors are not written: of hybrid models those for speculation, an unused output layer.
    """
    if weight_bytes is None or config.model_type in HYBRIDS:
        return 0
    stored_bits = STORED_BITS.get(config.torch_dtype or "", 32)
    unused = config.vocab_size * config.hidden_size * 4 if config.tie_word_embeddings else 0
    type = READABLE[format]
    share = min(1.0, 8 * type.nbytes / type.elements / stored_bits)
    return max(0, int((weight_bytes - unused) * share))


def told(progress: Progress | None, name: str, total: int) -> Callable[[int], None]:
    """Who is told how many bytes are written."""
    return (lambda done: progress(name, done, total)) if progress else (lambda done: None)
