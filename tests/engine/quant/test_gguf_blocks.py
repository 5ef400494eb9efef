"""Models whose matrices come in blocks: layers, embeddings and output layers of mixed types."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from helexa.engine import loading
from helexa.engine.checkpoint.checkpoint import SafetensorsCheckpoint
from helexa.engine.checkpoint.table import TensorInfo
from helexa.engine.layers.decoder import DecoderLayer
from helexa.engine.loading import load_model
from helexa.engine.models.model import Model
from helexa.engine.quant.blocks import weight as weights
from helexa.engine.quant.blocks.types import BLOCK_TYPES
from helexa.engine.quant.blocks.weight import BlockWeight
from tests.engine.models.families import Family, cosine, prompt, worst

TYPES = {"v_proj": "Q6_K", "down_proj": "Q6_K", "embed_tokens": "Q6_K", "up_proj": "Q8_0"}
SHAPE = {"hidden_size": 256, "intermediate_size": 256, "head_dim": 64, "num_hidden_layers": 2}


class Blocks(SafetensorsCheckpoint):
    """A checkpoint that keeps its matrices in blocks, as a mixed GGUF file does."""

    def type_of(self, name: str) -> str | None:
        if self.weights.info(name).dtype != "F32" or len(self.weights.info(name).shape) != 2:
            return None
        return TYPES.get(name.split(".")[-2], "Q4_K")

    def info(self, name: str) -> TensorInfo:
        info, type = super().info(name), self.type_of(name)
        return info if type is None else replace(info, dtype=type)

    def tensor(self, name: str) -> Tensor:
        type = self.type_of(name)
        return super().tensor(name) if type is None else BLOCK_TYPES[type].matrix(self.stored(name))

    def stored(self, name: str) -> Tensor:
        plain, type = super().tensor(name), self.type_of(name)
        return plain if type is None else BLOCK_TYPES[type].rows(plain)


@pytest.fixture(params=[False, True], ids=["untied", "tied"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    Family("blocks", fields={**SHAPE, "tie_word_embeddings": request.param}).save(tmp_path)
    return tmp_path


def expanded(folder: Path, to: Path) -> Path:
    """The same model, its blocks expanded."""
    blocks = Blocks("blocks", folder)
    Family("expanded", fields={**SHAPE, "tie_word_embeddings": blocks.tied}).save(to)
    names = load_file(to / "model.safetensors")
    save_file({name: blocks.tensor(name).clone() for name in names}, to / "model.safetensors")
    return to


def layers(model: Model) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, DecoderLayer)]


@pytest.mark.parametrize(
    ("disabled", "small"),
    [([], 0), (["quant_kernels"], 0), ([], 2**19)],
    ids=["exact", "plain", "small"],
)
def test_blocks_compute_what_their_numbers_do(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    disabled: list[str],
    small: int,
) -> None:
    monkeypatch.setattr(weights, "SMALL_MATRIX", small)
    model = load_model(Blocks("blocks", folder), device="cpu", dtype="float32", disabled=disabled)
    plain = load_model(expanded(folder, tmp_path / "expanded"), device="cpu", dtype="float32")
    ids = prompt(30)
    assert worst(model.compute_logits(ids), plain.compute_logits(ids)) < 1e-4
    assert model.num_parameters == plain.num_parameters
    if "quant_kernels" in disabled:
        assert model.nbytes < 0.3 * plain.nbytes
        assert isinstance(layers(model)[0].mlp.down.weight, BlockWeight)


def test_fast_layouts_are_near(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One row at a time and many: the largest key and value are bounded as well."""
    monkeypatch.setattr(weights, "SMALL_MATRIX", 0)
    monkeypatch.setattr(loading, "SMALL_KV", 0)
    model = load_model(Blocks("blocks", folder), device="cpu")
    plain = load_model(expanded(folder, tmp_path / "expanded"), device="cpu", dtype="float32")
    ids = prompt(30)
    exact = plain.compute_logits(ids)
    assert cosine(model.compute_logits(ids), exact) > 0.9995
    cache = model.new_cache(tokens=len(ids))
    single = [model.compute_logits([id], cache, context=at) for at, id in enumerate(ids)]
    assert cosine(torch.cat(single), exact) > 0.9995
    assert model.cache_dtype == torch.float16
    for layer, kept in zip(layers(model), cache.layers, strict=True):
        largest = kept.kv[:, :, : len(ids)].abs().max().item()
        assert largest <= layer.largest_key_or_value < 20 * largest
