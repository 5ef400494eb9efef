"""`tiny` as a GGUF file of every type, its blocks ours: near itself, no larger than its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from torch import Tensor

import helexa
from helexa.engine.loading import load_model
from helexa.engine.quant.blocks.types import BLOCK_TYPES, BlockType
from tests.engine.checkpoint.gguf_files import Array, Quantise, write_gguf
from tests.engine.models.families import prompt

TINY = Path(helexa.__file__).parent / "builtin" / "tiny"
DIVERGENCE = {"Q8_0": 2e-3, "Q6_K": 0.02, "Q5_K": 0.05, "Q5_0": 0.05, "Q4_K": 0.25, "Q4_0": 0.5}
"""From the unquantised model, embeddings being quantised too, in nats per token at most."""


def ours(type: BlockType) -> Quantise:
    """Matrices as our quantiser makes them; vectors stay float32."""

    def turn(name: str, values: Array) -> tuple[Array, GGMLQuantizationType | None]:
        if values.ndim < 2:
            return values.astype(np.float32), None
        blocks = type.rows(torch.from_numpy(values.astype(np.float32)))
        return blocks.numpy(), GGMLQuantizationType[type.name]

    return turn


@pytest.fixture(scope="module")
def exact() -> Tensor:
    return load_model("tiny", device="cpu", dtype="float32").compute_logits(prompt(150, 900))


@pytest.mark.parametrize("name", DIVERGENCE)
def test_tiny_as_gguf(name: str, tmp_path: Path, exact: Tensor) -> None:
    path = write_gguf(TINY, tmp_path / "m.gguf", ours(BLOCK_TYPES[name]), tokenizer=True)
    fast, slow = (load_model(path, device="cpu", disabled=off) for off in ([], ["quant_kernels"]))
    assert slow.nbytes <= 1.1 * path.stat().st_size
    p = exact.log_softmax(-1)
    found = [model.compute_logits(prompt(150, 900)).log_softmax(-1) for model in (fast, slow)]
    for q in found:
        assert (p.exp() * (p - q)).sum(-1).mean() <= DIVERGENCE[name]
    assert torch.cosine_similarity(*found, dim=-1).min() > 0.999
