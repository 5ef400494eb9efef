"""Models of real shapes whose weights are drawn on the device: nothing is read, nothing written."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from benchmarks.shapes import config, tensor_shapes
from helexa.engine.checkpoint.checkpoint import Checkpoint
from helexa.engine.checkpoint.files import TokenizerFiles
from helexa.engine.checkpoint.table import TensorInfo
from helexa.engine.config import ModelConfig
from helexa.engine.loading import load_model
from helexa.engine.models.model import Model
from helexa.errors import CheckpointError

BLOCKS = {"Q4_K": (256, 144), "Q6_K": (256, 210)}
"""Weights and bytes of a block."""
OUTPUT_BLOCKS = "Q6_K"
"""What a file of mixed K-quants has its embedding in."""


class RandomCheckpoint:
    """A Qwen3 checkpoint of a named shape, plain or in ``blocks`` of GGUF's; of so many ``layers``.

    Blocks are random bits under small scales: a product with them costs what any other does.
    """

    generation_config = None
    folder = None
    path = Path()
    quantisable = False

    def __init__(
        self,
        shape: str,
        device: torch.device,
        blocks: str | None = None,
        layers: int | None = None,
    ) -> None:
        self.id = f"random {shape}"
        self.device, self.blocks = device, blocks
        raw = config(shape, torch.bfloat16)
        if layers is not None:
            raw["num_hidden_layers"] = layers
        self.config = ModelConfig.from_dict(raw, self.id)
        self.tied = bool(raw["tie_word_embeddings"])
        self.shapes = tensor_shapes(shape)
        self.generator = torch.Generator(device).manual_seed(0)

    def kind(self, name: str) -> str:
        if len(self.shapes[name]) == 1 or self.blocks is None:
            return "BF16"
        outer = name in ("model.embed_tokens.weight", "lm_head.weight")
        return OUTPUT_BLOCKS if outer else self.blocks

    def names(self) -> Iterable[str]:
        return self.shapes

    def info(self, name: str) -> TensorInfo:
        kind, size = self.kind(name), torch.Size(self.shapes[name]).numel()
        weights, nbytes = BLOCKS.get(kind, (1, 2))
        return TensorInfo(name, self.shapes[name], kind, size // weights * nbytes, "nowhere", 0)

    def tensor(self, name: str) -> Tensor:
        shape = self.shapes[name]
        made = torch.empty(shape, dtype=torch.bfloat16, device=self.device)
        return made.fill_(1) if len(shape) == 1 else made.normal_(0, 0.02, generator=self.generator)

    def slice(self, name: str, dim: int, start: int, length: int) -> Tensor:
        return self.tensor(name).narrow(dim, start, length)

    def stored(self, name: str) -> Tensor:
        rows, columns = self.shapes[name]
        kind = self.kind(name)
        weights, nbytes = BLOCKS[kind]
        size = rows, columns // weights, nbytes
        options: dict[str, Any] = {"device": self.device, "generator": self.generator}
        made = torch.randint(0, 256, size, dtype=torch.uint8, **options)
        scale = torch.full((1,), 1e-4, dtype=torch.float16, device=self.device).view(torch.uint8)
        if kind == "Q4_K":
            made[..., :2] = made[..., 2:4] = scale
        else:
            made[..., -2:] = scale
        return made.view(rows, -1)

    def tokenizer_files(self) -> TokenizerFiles:
        raise CheckpointError("random weights have no tokenizer", hint="ask with token ids")

    def close(self) -> None:
        """Nothing is open."""


def random_model(shape: str, device: torch.device, blocks: str | None = None) -> Model:
    """A model of a named shape, in bfloat16 or in blocks, on ``device``."""
    checkpoint = cast("Checkpoint", RandomCheckpoint(shape, device, blocks))
    dtype = "bfloat16" if device.type == "cuda" else "auto"
    return load_model(checkpoint, device=device, dtype=dtype)
