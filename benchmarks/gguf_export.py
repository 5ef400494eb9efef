"""A benchmark checkpoint as a GGUF file without a vocabulary, for llama.cpp."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from helexa.engine.checkpoint.checkpoint import open_checkpoint
from helexa.engine.checkpoint.gguf_export import outgoing_tensors
from helexa.engine.checkpoint.gguf_metadata import gguf_metadata
from helexa.engine.checkpoint.gguf_writer import write_gguf


def export_gguf(folder: Path) -> Path:
    """Write ``model.gguf`` beside a safetensors checkpoint, matrices in bfloat16."""
    target = folder / "model.gguf"
    if target.is_file():
        return target
    with closing(open_checkpoint(folder)) as checkpoint:
        metadata = gguf_metadata(checkpoint.config, folder.name)
        metadata["tokenizer.ggml.model"] = "no_vocab"
        part = target.with_suffix(".part")
        with part.open("wb") as stream:
            write_gguf(stream, metadata, outgoing_tensors(checkpoint, "BF16"))
    return part.rename(target)
