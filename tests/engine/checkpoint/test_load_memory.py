"""How much memory loading takes while it lasts."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from benchmarks.format_memory import MIB, load_apart
from helexa.engine.checkpoint.checkpoint import open_checkpoint
from helexa.engine.loading import load_model
from tests.engine.models.families import SHAPE, Family, save_stacked

FIELDS = {
    "vocab_size": 16384,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 10,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 128,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 120 MiB in bfloat16, in several shards."""
    family = Family("large", fields={**SHAPE, **FIELDS}, shards=6, dtype=torch.bfloat16)
    return family.save(tmp_path_factory.mktemp("large")).folder


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("dtype", ["auto", "float32"])
def test_E036_loading_takes_the_weights_and_at_most_one_shard(folder: Path, dtype: str) -> None:
    shards = [path.stat().st_size for path in folder.glob("*.safetensors")]
    assert len(shards) >= 4
    found = load_apart(folder, dtype=dtype)
    assert found.weights_mib > 96
    assert found.peak_mib <= 1.15 * found.weights_mib + max(shards) / MIB


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """About 190 MiB in bfloat16, of which 4 × 48 are experts, by themselves and stacked."""
    sizes = {"num_hidden_layers": 4, "num_experts": 32, "moe_intermediate_size": 512}
    fields = {**SHAPE, **FIELDS, "vocab_size": 512, **sizes}
    family = Family("experts", "qwen3_moe", fields=fields, shards=6, dtype=torch.bfloat16)
    made = family.save(tmp_path_factory.mktemp("single"))
    return [made.folder, save_stacked(made, tmp_path_factory.mktemp("stacked"))]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("layout", "dtype"), [(0, "float32"), (1, "auto")], ids=["single", "stacked"]
)
def test_E036_no_layer_of_experts_is_held_twice(
    layout: int, dtype: str, experts: list[Path]
) -> None:
    found = load_apart(experts[layout], dtype=dtype)
    assert found.weights_mib > 190
    assert found.peak_mib <= 1.15 * found.weights_mib


def test_weights_that_share_the_file_stay_when_others_are_released(folder: Path) -> None:
    """Two loads of one open checkpoint: the second converts, and gives back what it has read."""
    checkpoint = open_checkpoint(folder)
    shared = checkpoint.tensor("model.layers.0.mlp.down_proj.weight")
    expected = shared.clone()
    shared[0] = expected[0] = 3.0  # written pages cannot be read from the file again
    load_model(checkpoint, device="cpu", dtype="float32")
    checkpoint.close()
    assert torch.equal(shared, expected)
