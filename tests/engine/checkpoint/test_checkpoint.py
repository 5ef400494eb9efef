"""An opened folder: lazy views of its tensors, strict loading, the files beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from helexa.engine.checkpoint.checkpoint import Checkpoint, open_checkpoint
from helexa.engine.checkpoint.weights import Weights
from helexa.errors import CheckpointError, PreflightError, UnsupportedModel

TENSORS = {
    "model.a.weight": torch.arange(12, dtype=torch.float32).reshape(4, 3),
    "model.a.bias": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "model.half": torch.tensor([[0.25]], dtype=torch.float16),
    "model.none": torch.zeros(0, 5),
}


@pytest.fixture
def folder(tmp_path: Path, config: dict[str, object]) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(TENSORS, tmp_path / "model.safetensors")
    return tmp_path


@pytest.fixture
def checkpoint(folder: Path) -> Checkpoint:
    return open_checkpoint(folder)


def with_tensors(folder: Path, tensors: dict[str, torch.Tensor], **config: Any) -> Checkpoint:
    save_file(tensors, folder / "model.safetensors")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return open_checkpoint(str(folder))


def test_tensors_are_what_was_saved(checkpoint: Checkpoint) -> None:
    assert sorted(checkpoint.names()) == sorted(TENSORS)
    for name, tensor in TENSORS.items():
        assert torch.equal(checkpoint.tensor(name), tensor)
        assert checkpoint.tensor(name).dtype == tensor.dtype
        assert torch.equal(checkpoint.stored(name), tensor)
        assert checkpoint.info(name).shape == tensor.shape
        assert checkpoint.info(name).nbytes == tensor.nbytes


def test_slices(checkpoint: Checkpoint) -> None:
    whole = TENSORS["model.a.weight"]
    assert torch.equal(checkpoint.slice("model.a.weight", 0, 1, 2), whole[1:3])
    assert torch.equal(checkpoint.slice("model.a.weight", 1, 2, 1), whole[:, 2:])


def test_tensors_are_views_that_outlive_the_checkpoint(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    first, again = checkpoint.tensor("model.a.weight"), checkpoint.tensor("model.a.weight")
    assert first.data_ptr() == again.data_ptr()
    checkpoint.close()
    del checkpoint, again
    assert torch.equal(first, TENSORS["model.a.weight"])


def test_writing_to_a_tensor_leaves_the_file_alone(folder: Path) -> None:
    before = (folder / "model.safetensors").read_bytes()
    checkpoint = open_checkpoint(folder)
    checkpoint.tensor("model.a.weight").zero_()
    assert (folder / "model.safetensors").read_bytes() == before


def test_data_that_is_not_aligned_is_copied(folder: Path) -> None:
    path = folder / "model.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    path.write_bytes(
        (length + 1).to_bytes(8, "little") + data[8 : 8 + length] + b" " + data[8 + length :]
    )
    checkpoint = open_checkpoint(folder)
    for name, tensor in TENSORS.items():
        assert torch.equal(checkpoint.tensor(name), tensor)


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.uint8])
def test_other_dtypes_are_refused_by_name(folder: Path, dtype: torch.dtype) -> None:
    checkpoint = with_tensors(folder, {"odd": torch.zeros(2, dtype=dtype)})
    with pytest.raises(CheckpointError, match=r"tensor 'odd' .* has dtype .*; supported: F32"):
        checkpoint.tensor("odd")


def test_an_absent_tensor_is_named(checkpoint: Checkpoint) -> None:
    for read in (checkpoint.tensor, checkpoint.info, checkpoint.stored):
        with pytest.raises(CheckpointError, match=r"tensor 'model\.b' is missing"):
            read("model.b")


def test_files_beside_the_weights(folder: Path) -> None:
    assert open_checkpoint(folder).generation_config is None
    assert open_checkpoint(folder).tokenizer_files().tokenizer_json is None
    for name in ("generation_config.json", "tokenizer.json", "chat_template.jinja"):
        (folder / name).write_text("{}")
    checkpoint = open_checkpoint(folder)
    assert checkpoint.generation_config == "{}"
    files = checkpoint.tokenizer_files()
    assert files.tokenizer_json == folder / "tokenizer.json"
    assert files.chat_template == folder / "chat_template.jinja"
    assert files.tokenizer_config is None


def test_a_folder_without_config_or_weights(tmp_path: Path, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(PreflightError, match="holds no weights"):
        open_checkpoint(folder)
    (folder / "adapter.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="no weights in"):
        open_checkpoint(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"cannot read .*config\.json"):
        open_checkpoint(folder)


def test_image_pipelines_are_refused(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(UnsupportedModel, match="an image pipeline"):
        open_checkpoint(tmp_path)


def test_weights_narrow_check_and_convert(checkpoint: Checkpoint) -> None:
    weights = Weights(checkpoint, "model", dtype=torch.float64)
    part = weights / "a"
    assert "weight" in part
    assert "b" not in weights
    assert sorted(part) == ["bias", "weight"]
    assert torch.equal(part.tensor("weight", (4, 3)), TENSORS["model.a.weight"].double())
    assert part.tensor("bias", [2], dtype=torch.float32).dtype == torch.float32


def test_unconverted_weights_are_views_of_the_file(checkpoint: Checkpoint) -> None:
    taken = Weights(checkpoint).tensor("model.half")
    assert taken.data_ptr() == checkpoint.tensor("model.half").data_ptr()


def test_a_wrong_shape_names_file_tensor_and_both_shapes(checkpoint: Checkpoint) -> None:
    with pytest.raises(CheckpointError) as caught:
        (Weights(checkpoint) / "model" / "a").tensor("weight", (3, 4))
    for told in ("'model.a.weight'", "model.safetensors", "[4, 3]", "[3, 4]"):
        assert told in caught.value.message


def test_a_missing_weight_is_named(checkpoint: Checkpoint) -> None:
    with pytest.raises(CheckpointError, match=r"tensor 'model\.layers\.0\.x' is missing"):
        (Weights(checkpoint) / "model" / "layers" / 0).tensor("x", (1,))


def test_left_over_tensors_are_named_whoever_took_the_others(checkpoint: Checkpoint) -> None:
    weights = Weights(checkpoint)
    (weights / "model").tensor("half")
    (weights / "model" / "a").tensor("weight")
    (weights / "model").tensor("none")
    with pytest.raises(CheckpointError, match=r"does not use: model\.a\.bias \(first in"):
        weights.finish()
    weights.finish(allowed=["model.a.*"])
    (weights / "model.a").tensor("bias")
    weights.finish()


@pytest.mark.parametrize(
    ("name", "tied", "accepted"),
    [
        ("mtp.layers.0.weight", False, True),
        ("model.layers.0.self_attn.rotary_emb.inv_freq", False, True),
        ("lm_head.weight", True, True),
        ("lm_head.weight", False, False),
        ("visual.x", True, False),
    ],
)
def test_exceptions_from_strictness(folder: Path, name: str, tied: bool, accepted: bool) -> None:
    tensors = {"w": torch.zeros(1), name: torch.zeros(1)}
    checkpoint = with_tensors(folder, tensors, tie_word_embeddings=tied)
    weights = Weights(checkpoint)
    weights.tensor("w")
    if accepted:
        weights.finish()
    else:
        with pytest.raises(CheckpointError, match=name):
            weights.finish()


def test_a_checkpoint_without_a_head_is_tied_whatever_its_flag(folder: Path) -> None:
    assert with_tensors(folder, {"w": torch.zeros(1)}, tie_word_embeddings=False).tied
    head = {"lm_head.weight": torch.zeros(1)}
    assert not with_tensors(folder, head, tie_word_embeddings=False).tied
    assert with_tensors(folder, head, tie_word_embeddings=True).tied


def test_progress_counts_each_tensor_once(checkpoint: Checkpoint) -> None:
    seen: list[tuple[str, int, int | None]] = []
    weights = Weights(checkpoint, progress=lambda *report: seen.append(report))
    weights.tensor("model.half")
    weights.tensor("model.half")
    (weights / "model" / "a").tensor("bias")
    total = sum(tensor.nbytes for tensor in TENSORS.values())
    assert seen == [("weights", 2, total), ("weights", 6, total)]
