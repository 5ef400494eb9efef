"""GGUF files that ask for what is not done here are refused, and nothing of them is dropped."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest

from helexa.engine.checkpoint.gguf import GGUFCheckpoint
from helexa.errors import CheckpointError, UnsupportedModel
from tests.engine.checkpoint.gguf_files import converted, finish, tensors_of, write_config
from tests.engine.models.families import Family


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    fields = {"num_hidden_layers": 1}
    return Family("qwen3", fields=fields).save(tmp_path_factory.mktemp("qwen3")).folder


def written(
    folder: Path, to: Path, key: str = "", value: object = None, tensor: str = ""
) -> GGUFCheckpoint:
    """The model as a file with one more key, or one more tensor."""
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(to, "qwen3")
    write_config(writer, config)
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    for name, data in converted(config, tensors_of(folder)).items():
        writer.add_tensor(name, data)
    if tensor:
        writer.add_tensor(tensor, np.zeros(64, np.float32))
    return GGUFCheckpoint("m", finish(writer, to))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("qwen3.attention.sliding_window", 8),
        ("qwen3.attention.causal", False),
        ("qwen3.expert_gating_func", 2),
        ("qwen3.expert_weights_scale", 2.5),
    ],
)
def test_other_arithmetic_is_refused_by_its_key(
    key: str, value: object, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedModel, match=key):
        written(folder, tmp_path / "m.gguf", key, value)


@pytest.mark.parametrize(
    ("key", "value"),
    [("qwen3.attention.sliding_window", 0), ("qwen3.attention.causal", True)],
)
def test_the_usual_values_are_fine(key: str, value: object, folder: Path, tmp_path: Path) -> None:
    assert written(folder, tmp_path / "m.gguf", key, value).config.model_type == "qwen3"


@pytest.mark.parametrize(
    "tensor", ["blk.0.post_attention_norm.weight", "blk.00.ffn_norm.weight", "model.norm.weight"]
)
def test_two_tensors_for_one_place_are_refused(tensor: str, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="so does another"):
        written(folder, tmp_path / "m.gguf", tensor=tensor)
