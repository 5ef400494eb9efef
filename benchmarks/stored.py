"""A plain checkpoint in the formats that others write: quantised safetensors, and GGUF."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import gguf
import torch
from torch import Tensor

from helexa.engine.checkpoint.checkpoint import open_checkpoint
from helexa.engine.checkpoint.gguf_export import outgoing_tensors
from helexa.engine.checkpoint.gguf_metadata import gguf_metadata
from helexa.engine.checkpoint.gguf_tensors import Converted, converted_tensors
from helexa.engine.checkpoint.gguf_types import READABLE
from helexa.engine.checkpoint.gguf_writer import Outgoing, write_gguf
from tools.k_quants import Bytes, Floats, q2_k, q3_k
from tools.quantised import (
    AWQ,
    FP8,
    GPTQ,
    Case,
    Writer,
    awq,
    compressed,
    convert,
    float8,
    gptq,
    int8,
    packed,
)

GROUP = 128
BLOCK = (128, 128)
SAFETENSORS = {
    "fp8": Case({**FP8, "weight_block_size": [*BLOCK]}, partial(float8, block=BLOCK)),
    "awq": Case({**AWQ, "group_size": GROUP}, partial(awq, group=GROUP)),
    "gptq 4-bit": Case({**GPTQ, "group_size": GROUP}, partial(gptq, group=GROUP)),
    "gptq 8-bit": Case(
        {**GPTQ, "bits": 8, "group_size": GROUP}, partial(gptq, bits=8, group=GROUP)
    ),
    "compressed int4": Case(
        compressed("pack-quantized", num_bits=4, strategy="group", group_size=GROUP),
        partial(packed, group=GROUP),
    ),
    "compressed int8": Case(compressed("int-quantized", strategy="channel"), int8),
}
"""The sizes of groups and blocks are those of most published checkpoints; rounded to nearest."""
GGUF: Mapping[str, Callable[[Floats], Bytes]] = {
    "q5_1": partial(gguf.quantize, qtype=gguf.GGMLQuantizationType.Q5_1),
    "q4_1": partial(gguf.quantize, qtype=gguf.GGMLQuantizationType.Q4_1),
    "q3_k": q3_k,
    "q2_k": q2_k,
}
"""Formats that helexa reads and multiplies but does not write; the `gguf` package does of two."""
STORED = (*SAFETENSORS, *GGUF)


def write_stored(folder: Path, format: str, to: Path, *, noise: bool = False) -> Path:
    """Write a plain checkpoint in one of STORED below ``to``; → what is to be loaded.

    ``noise``: the numbers do not matter, so one matrix of each shape stands for all.
    """
    target = to / format.replace(" ", "-")
    if format in SAFETENSORS:
        case = SAFETENSORS[format]
        convert(folder, target, replace(case, write=once(case.write)) if noise else case)
        return target
    with closing(open_checkpoint(folder)) as checkpoint:
        metadata = gguf_metadata(checkpoint.config, folder.name)
        metadata["tokenizer.ggml.model"] = "no_vocab"
        plain = outgoing_tensors(checkpoint, "F32")
        tensors = converted_tensors(checkpoint)
        both = zip(plain, tensors, strict=True)
        file = target.with_suffix(".gguf")
        with file.open("wb") as stream:
            outgoing = [in_blocks(t, format) if t.kind == "linear" else p for p, t in both]
            write_gguf(stream, metadata, outgoing)
    return file


def once(write: Writer) -> Writer:
    """A writer that quantises the first matrix of each shape, and gives copies for the others."""
    kept: dict[torch.Size, tuple[dict[str, Tensor], Tensor]] = {}

    def copied(matrix: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        if matrix.shape not in kept:
            kept[matrix.shape] = write(matrix)
        stored, meant = kept[matrix.shape]
        return {name: tensor.clone() for name, tensor in stored.items()}, meant

    return copied


def in_blocks(tensor: Converted, format: str) -> Outgoing:
    """A tensor in one of GGUF."""

    def pieces() -> Iterable[memoryview]:
        for part in tensor.parts:
            values: Tensor = part().float()
            yield memoryview(GGUF[format](values.numpy()).reshape(-1).data)

    return Outgoing(tensor.name, READABLE[format.upper()], tensor.shape, pieces)
