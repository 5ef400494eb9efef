"""A benchmark checkpoint as a GGUF file without a vocabulary, for helexa and for llama.cpp."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from helexa.engine.checkpoint.checkpoint import Checkpoint, open_checkpoint
from helexa.engine.checkpoint.gguf_export import outgoing
from helexa.engine.checkpoint.gguf_metadata import gguf_metadata
from helexa.engine.checkpoint.gguf_tensors import Converted, converted_tensors
from helexa.engine.checkpoint.gguf_writer import Outgoing, write_gguf

FORMATS = {"16 bit": "BF16", "q8_0": "Q8_0", "q6_k": "Q6_K", "q4_k_m": "Q4_K"}
"""What is measured, and what most matrices of its file are in."""
FINER = re.compile(r"blk\.(\d+)\.(?:attn_v|ffn_down)\.weight")


def export_gguf(folder: Path, format: str) -> Path:
    """Write one of `FORMATS` beside a safetensors checkpoint."""
    target = folder / f"model-{format.replace(' ', '-')}.gguf"
    if target.is_file():
        return target
    with closing(open_checkpoint(folder)) as checkpoint:
        metadata = gguf_metadata(checkpoint.config, folder.name)
        metadata["tokenizer.ggml.model"] = "no_vocab"
        part = target.with_suffix(".part")
        with part.open("wb") as stream:
            write_gguf(stream, metadata, list(tensors(checkpoint, format)))
    return part.rename(target)


def tensors(checkpoint: Checkpoint, format: str) -> Iterator[Outgoing]:
    """All of them, as published files of such a name have them: those with Q4_K mix in Q6_K."""
    layers, usual = checkpoint.config.num_hidden_layers, FORMATS[format]
    for tensor in converted_tensors(checkpoint):
        chosen = "Q6_K" if usual == "Q4_K" and is_finer(tensor, layers) else usual
        yield outgoing(tensor, chosen, chosen)


def is_finer(tensor: Converted, layers: int) -> bool:
    """Whether a Q4_K_M file has this tensor in Q6_K.

    The embedding, and values and down projections of the first and last eighth of the layers and
    of every third between.
    """
    match = FINER.fullmatch(tensor.name)
    if match is None:
        return tensor.kind == "table"
    index, eighth = int(match[1]), layers // 8
    return index < eighth or index >= 7 * layers // 8 or (index - eighth) % 3 == 2
