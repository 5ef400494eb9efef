"""GGUF files as checkpoints: the models in them compute what their safetensors twins do."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

import helexa
from helexa.engine.checkpoint.checkpoint import Checkpoint, open_checkpoint
from helexa.engine.checkpoint.gguf import in_halves
from helexa.engine.checkpoint.reference import Variant
from helexa.engine.end_tokens import end_token_ids
from helexa.engine.loading import load_model
from helexa.engine.params import GenerationDefaults
from helexa.errors import CheckpointError, PreflightError, UnsupportedModel
from tests.engine.checkpoint.gguf_files import (
    finish,
    interleaved,
    plain,
    quantised,
    tensors_of,
    write_gguf,
)
from tests.engine.models.families import Family, Reference, hybrid, prompt, worst

SMALL = {"num_hidden_layers": 2}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
FAMILIES = (
    Family("qwen3"),
    Family("llama", "llama"),
    Family("half", fields=SMALL, dtype=torch.float16),
    Family("half-llama", "llama", fields=SMALL, dtype=torch.float16),
    Family("llama3", "llama", fields=SMALL, rope=LLAMA3),
    Family("linear", "llama", fields=SMALL, rope={"rope_type": "linear", "factor": 4.0}),
    Family("yarn", fields=SMALL, rope=YARN),
    Family("tied", fields={**SMALL, "tie_word_embeddings": True}),
    Family("moe", "qwen3_moe", {**SMALL, "norm_topk_prob": True}),
    Family("half-moe", "qwen3_moe", {**SMALL, "norm_topk_prob": True}, dtype=torch.float16),
    hybrid("qwen35"),
    hybrid("qwen35-4-key-heads", linear_num_key_heads=4),
    hybrid("qwen35moe", "qwen3_5_moe"),
    hybrid("qwen3next", "qwen3_next"),
    Family("biased", "llama", fields={**SMALL, "attention_bias": True, "mlp_bias": True}),
)
BY_NAME = {family.name: family for family in FAMILIES}
LAST = "model.layers.3.self_attn.q_proj.weight"
TINY = Path(helexa.__file__).parent / "builtin/tiny"
Made = Callable[[str], tuple[Reference, Path]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A family's checkpoint and the GGUF file of it, made when first asked for."""

    @cache
    def make(name: str) -> tuple[Reference, Path]:
        folder = tmp_path_factory.mktemp(name)
        reference = BY_NAME[name].save(folder / "dense")
        kind = np.float16 if BY_NAME[name].dtype == torch.float16 else np.float32
        return reference, write_gguf(reference.folder, folder / "m.gguf", plain(kind))

    return make


@pytest.fixture
def qwen3(made: Made) -> Checkpoint:
    return open_checkpoint(made("qwen3")[1])


@pytest.mark.parametrize("name", BY_NAME)
def test_e030_logits_are_those_of_the_safetensors_twin(made: Made, name: str) -> None:
    reference, path = made(name)
    model, twin = (load_model(at, dtype="float32") for at in (path, reference.folder))
    ids = prompt(130)
    assert worst(model.compute_logits(ids), twin.compute_logits(ids)) <= 1e-3
    if BY_NAME[name].dtype == torch.float32:
        assert worst(model.compute_logits(ids), reference.logits(ids)) <= 1e-3
    assert model.num_parameters == twin.num_parameters


def test_e030_inputs_of_qwen3next_may_be_in_one_matrix(made: Made, tmp_path: Path) -> None:
    reference, path = made("qwen3next")
    older = write_gguf(reference.folder, tmp_path / "m.gguf", plain(np.float32), fused=True)
    names = [set(open_checkpoint(at).names()) for at in (path, older)]
    assert any(name.endswith("in_proj_qkvz.weight") for name in names[1] - names[0])
    ids = prompt(130)
    ours = load_model(older, dtype="float32").compute_logits(ids)
    assert worst(ours, reference.logits(ids)) <= 1e-3


def test_values_are_views_of_the_file(made: Made, qwen3: Checkpoint) -> None:
    reference, _ = made("qwen3")
    stored = tensors_of(reference.folder)
    assert set(qwen3.names()) == set(stored)
    for name in qwen3.names():
        assert qwen3.info(name).shape == stored[name].shape
        assert np.array_equal(qwen3.tensor(name).numpy(), stored[name])
    one = qwen3.tensor(LAST)
    assert one.data_ptr() == qwen3.tensor(LAST).data_ptr()
    assert torch.equal(qwen3.slice(LAST, 1, 3, 5), one[:, 3:8])
    qwen3.close()
    assert torch.equal(one, torch.from_numpy(stored[LAST]))


@pytest.mark.parametrize("tail", [(), (3,)], ids=["bias", "weight"])
def test_interleaved_rows_are_put_back(tail: tuple[int, ...]) -> None:
    rows = np.random.default_rng(0).standard_normal((48, *tail))
    back = in_halves(torch.from_numpy(interleaved(rows, 3)), 3)
    assert np.array_equal(back.numpy(), rows)


def test_blocks_are_handed_out_as_they_are_stored(made: Made, tmp_path: Path) -> None:
    reference, _ = made("llama")
    kind = gguf.GGMLQuantizationType.Q8_0
    path = write_gguf(reference.folder, tmp_path / "m.gguf", quantised(kind))
    checkpoint = open_checkpoint(path)
    values = tensors_of(reference.folder)
    for part in ("q_proj", "o_proj"):
        name = f"model.layers.1.self_attn.{part}.weight"
        info = checkpoint.info(name)
        assert (info.dtype, info.shape) == ("Q8_0", values[name].shape)
        blocks = checkpoint.stored(name)
        assert np.array_equal(blocks.numpy(), gguf.quantize(values[name], kind))
    norm = "model.norm.weight"
    assert np.array_equal(checkpoint.stored(norm).numpy(), values[norm])


def test_a_split_file_is_a_checkpoint(made: Made, tmp_path: Path) -> None:
    reference, path = made("qwen3")
    first = write_gguf(reference.folder, tmp_path / "m.gguf", plain(np.float32), split_tensors=9)
    parts = sorted(tmp_path.iterdir())
    assert len(parts) > 2
    whole = load_model(path, dtype="float32").compute_logits([1, 2, 3])
    for part in (first, parts[-1]):
        assert torch.equal(load_model(part, dtype="float32").compute_logits([1, 2, 3]), whole)
    parts[1].unlink()
    with pytest.raises(CheckpointError, match=f"part {parts[1].name} is missing"):
        open_checkpoint(first)


def test_a_type_that_cannot_be_read_fails_before_any_weight(tmp_path: Path) -> None:
    odd = np.zeros((2, 66), dtype=np.uint8)
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "qwen3")
    writer.add_tensor("blk.0.odd.weight", odd, raw_dtype=gguf.GGMLQuantizationType.IQ2_XXS)
    path = finish(writer, tmp_path / "m.gguf")
    with pytest.raises(CheckpointError, match=r"'blk\.0\.odd\.weight' in .* has type IQ2_XXS"):
        open_checkpoint(path)


def test_unknown_tensors_are_left_over_by_their_gguf_name(made: Made, tmp_path: Path) -> None:
    reference, _ = made("tied")
    odd = {"blk.0.odd.weight": np.zeros(4, dtype=np.float32)}
    path = write_gguf(reference.folder, tmp_path / "m.gguf", plain(np.float32), extra=odd)
    with pytest.raises(CheckpointError, match=r"does not use: blk\.0\.odd\.weight"):
        load_model(path)


def test_blocks_that_predict_further_tokens_are_ignored(made: Made, tmp_path: Path) -> None:
    reference, _ = made("tied")
    further = {
        "blk.0.nextn.eh_proj.weight": np.zeros((4, 4), dtype=np.float32),
        "blk.2.attn_norm.weight": np.zeros(64, dtype=np.float32),
    }
    path = write_gguf(reference.folder, tmp_path / "m.gguf", plain(np.float32), extra=further)
    ids = prompt(20)
    ours = load_model(path, dtype="float32").compute_logits(ids)
    assert worst(ours, reference.logits(ids)) <= 1e-3


def test_an_unknown_architecture_is_named(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "mamba")
    writer.add_tensor("token_embd.weight", np.zeros((4, 4), dtype=np.float32))
    path = finish(writer, tmp_path / "m.gguf")
    with pytest.raises(UnsupportedModel, match=r"unsupported GGUF architecture 'mamba'"):
        open_checkpoint(path)


@pytest.mark.parametrize("values", [[1.0, 0.0], [float("nan")] * 16], ids=["zero", "nan"])
def test_divisors_must_divide(made: Made, tmp_path: Path, values: list[float]) -> None:
    extra = {"rope_freqs.weight": np.array(values, dtype=np.float32)}
    folder = made("tied")[0].folder
    path = write_gguf(folder, tmp_path / "m.gguf", plain(np.float32), extra=extra)
    with pytest.raises(CheckpointError, match="divide nothing"):
        open_checkpoint(path)


@pytest.fixture
def folder(made: Made, tmp_path: Path) -> Path:
    """A folder with several GGUF files and no other weights."""
    shutil.copy(made("tied")[1], tmp_path / "m-Q8_0.gguf")
    shutil.copy(made("tied")[1], tmp_path / "m-F32.gguf")
    (tmp_path / "mmproj-F16.gguf").write_bytes(b"GGUF")
    (tmp_path / "generation_config.json").write_text('{"temperature": 0.25}')
    return tmp_path


@pytest.mark.parametrize(
    ("quant", "expected"), [(None, "m-F32.gguf"), ("q8_0", "m-Q8_0.gguf"), ("Q80", "m-Q8_0.gguf")]
)
def test_a_quant_chooses_a_file_of_a_folder(folder: Path, quant: str | None, expected: str) -> None:
    checkpoint = open_checkpoint(Variant(folder, quant))
    assert checkpoint.path == folder / expected
    assert (checkpoint.folder, checkpoint.id) == (folder, str(folder))
    assert checkpoint.generation_config == '{"temperature": 0.25}'
    assert not checkpoint.quantisable


def test_a_quant_that_no_file_has_is_refused(folder: Path) -> None:
    for model in (folder, folder / "m-F32.gguf"):
        with pytest.raises(PreflightError, match="no GGUF file for quant 'q9'") as caught:
            open_checkpoint(Variant(model, "q9"))
        assert caught.value.kind == "quant_not_found"


def test_a_folder_with_both_is_loaded_from_safetensors(made: Made, folder: Path) -> None:
    for file in made("tied")[0].folder.iterdir():
        shutil.copy(file, folder / file.name)
    assert open_checkpoint(folder).quantisable


def test_tiny_answers_from_a_single_file(tmp_path: Path) -> None:
    path = write_gguf(TINY, tmp_path / "tiny-F16.gguf", plain(np.float16), tokenizer=True)
    with helexa.LLM(path, quant="f16") as llm, helexa.LLM("tiny") as twin:
        for question in ("What is 17 + 25?", "Hello!"):
            ours = llm.chat(question, temperature=0, max_tokens=48)
            theirs = twin.chat(question, temperature=0, max_tokens=48)
            assert (ours.text, ours.finish_reason) == (theirs.text, theirs.finish_reason)
    (tmp_path / "generation_config.json").write_text((TINY / "generation_config.json").read_text())
    checkpoint, dense = open_checkpoint(path), open_checkpoint("tiny")
    defaults = GenerationDefaults()
    assert end_token_ids(checkpoint, defaults) == end_token_ids(dense, defaults)


def test_a_tokenizer_beside_the_file_counts_first(tmp_path: Path) -> None:
    path = write_gguf(TINY, tmp_path / "m.gguf", plain(np.float16), tokenizer=True)
    files = open_checkpoint(path).tokenizer_files()
    assert files.tokenizer_json is None
    assert files.gguf is not None
    assert "tokenizer.ggml.tokens" in files.gguf
    (tmp_path / "tokenizer.json").write_text("{}")
    assert open_checkpoint(path).tokenizer_files().tokenizer_json == tmp_path / "tokenizer.json"


def test_the_tokenizer_of_the_repository_it_was_made_from(tmp_path: Path, made: Made) -> None:
    snapshot = tmp_path / "models--org--name-GGUF/snapshots/c1"
    (snapshot / "Q8_0").mkdir(parents=True)
    path = snapshot / "Q8_0/m.gguf"
    os.link(made("tied")[1], path)
    original = tmp_path / "models--org--name"
    (original / "refs").mkdir(parents=True)
    (original / "refs/main").write_text("c2")
    (original / "snapshots/c2").mkdir(parents=True)
    there = original / "snapshots/c2/tokenizer.json"
    there.write_text("{}")
    assert open_checkpoint(path).tokenizer_files().tokenizer_json == there
    assert open_checkpoint(path).generation_config is None
    (snapshot / "generation_config.json").write_text("{}")
    assert open_checkpoint(path).generation_config == "{}"
    (snapshot / "tokenizer.json").write_text("{}")
    assert open_checkpoint(path).tokenizer_files().tokenizer_json == snapshot / "tokenizer.json"
    assert json.loads(there.read_text()) == {}


KINDS = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")


@pytest.mark.parametrize("name", KINDS)
def test_values_of_blocks_are_those_of_the_package(made: Made, tmp_path: Path, name: str) -> None:
    pytest.importorskip("helexa.engine.quant.blocks.types", reason="reads blocks, is not built yet")
    kind = gguf.GGMLQuantizationType[name]
    for family in ("llama", "moe"):
        folder = made(family)[0].folder
        path = write_gguf(folder, tmp_path / f"{family}.gguf", quantised(kind))
        checkpoint = open_checkpoint(path)
        for tensor, values in tensors_of(folder).items():
            if values.ndim == 2:
                assert checkpoint.info(tensor).dtype == name
                expected = gguf.dequantize(gguf.quantize(values, kind), kind)
                assert np.array_equal(checkpoint.tensor(tensor).numpy(), expected)
