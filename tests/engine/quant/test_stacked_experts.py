"""Quantised experts of which all are in one tensor."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import FineGrainedFP8Config
from transformers.integrations.finegrained_fp8 import Fp8Quantize

from helexa.engine.checkpoint.summary import inspect_checkpoint
from helexa.engine.loading import load_model
from helexa.errors import CheckpointError
from tests.engine.models.families import (
    CLASSES,
    Family,
    Reference,
    hybrid,
    prompt,
    save_stacked,
    worst,
)
from tests.engine.quant.cases import per_row
from tools.quantised import FP8, Case, compressed, float8, int8

BLOCKS = Case({**FP8, "weight_block_size": [32, 16]}, partial(float8, block=(32, 16)))
RAGGED = Case({**FP8, "weight_block_size": [48, 40]}, partial(float8, block=(48, 40)))
EXPONENTS = Case(
    {**FP8, "weight_block_size": [32, 32]},
    partial(float8, block=(32, 32), dtype=torch.float8_e8m0fnu),
)
WHOLE = Case({**FP8, "activation_scheme": "static"}, partial(float8, block=None))
FLOAT = {"type": "float", "num_bits": 8}
CASES = {
    "fp8": BLOCKS,
    "fp8-ragged": RAGGED,
    "fp8-exponents": EXPONENTS,
    "fp8-tensor": WHOLE,
    "float-row": Case(compressed("float-quantized", strategy="channel", **FLOAT), per_row),
    "int8": Case(compressed("int-quantized", strategy="channel"), int8),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """A model whose reference keeps all experts of a layer in two tensors."""
    family = Family("stacked", "qwen3_moe", {"num_hidden_layers": 2})
    return family.save(tmp_path_factory.mktemp("plain"))


def write(reference: Reference, folder: Path, case: Case) -> dict[str, Tensor]:
    """Write a checkpoint with stacks of quantised experts, all else plain; → what it means."""
    save_stacked(reference, folder)
    meant: dict[str, Tensor] = {}
    for file in folder.glob("*.safetensors"):
        tensors = load_file(file)
        meant |= tensors
        for name in [n for n in tensors if n.endswith(("gate_up_proj", "down_proj"))]:
            made = [case.write(matrix) for matrix in tensors[name]]
            meant[name] = torch.stack([matrix for _, matrix in made])
            for part in made[0][0]:
                at = name + part.removeprefix("weight")
                tensors[at] = torch.stack([stored[part] for stored, _ in made])
            if case is WHOLE:
                tensors[f"{name}_activation_scale"] = torch.ones(len(made))
        save_file(tensors, file)
    describe(folder, case.config)
    return meant


def describe(folder: Path, quantization: Any) -> None:
    """Name the format in the config, and where each tensor is in the index."""
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = dict(quantization)
    (folder / "config.json").write_text(json.dumps(config))
    places = {name: f.name for f in folder.glob("*.safetensors") for name in load_file(f)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


def meaning(reference: Reference, tensors: dict[str, Tensor], ids: list[int]) -> Tensor:
    """The logits of the reference with these weights."""
    kind = reference.model.config.model_type.removesuffix("_text")
    model = CLASSES[kind][1](reference.model.config).eval()
    model.load_state_dict(tensors)
    return Reference(reference.folder, model).logits(ids)


@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_of_the_dequantised_model(
    name: str, plain: Reference, tmp_path: Path
) -> None:
    expected = meaning(plain, write(plain, tmp_path, CASES[name]), prompt(40))
    model = load_model(tmp_path, dtype="float32", device="cpu")
    assert worst(model.compute_logits(prompt(40)), expected) < 1e-4
    assert worst(model.compute_logits(prompt(1)), expected[:1]) < 1e-4


@pytest.mark.parametrize("kind", ["qwen3_next", "qwen3_5_moe"])
def test_experts_of_hybrid_models(kind: str, tmp_path: Path) -> None:
    reference = hybrid(kind, kind, num_hidden_layers=4).save(tmp_path / "plain")
    expected = meaning(reference, write(reference, tmp_path / "fp8", BLOCKS), prompt(40))
    model = load_model(tmp_path / "fp8", dtype="float32", device="cpu")
    assert worst(model.compute_logits(prompt(40)), expected) < 2e-4


@pytest.mark.parametrize("scales", ["float", "ue8m0"])
def test_stacks_that_transformers_quantises(scales: str, plain: Reference, tmp_path: Path) -> None:
    """Its own names and numbers mean what the explicit product of blocks and scales means."""
    config = FineGrainedFP8Config(weight_block_size=(32, 32), scale_fmt=scales)
    quantiser = Fp8Quantize(SimpleNamespace(quantization_config=config))
    save_stacked(plain, tmp_path)
    meant: dict[str, Tensor] = {}
    for file in tmp_path.glob("*.safetensors"):
        tensors = load_file(file)
        meant |= tensors
        for name in [n for n in tensors if n.endswith(("gate_up_proj", "down_proj"))]:
            tensors |= quantiser.convert({name: tensors[name]})
            scale = tensors[f"{name}_scale_inv"].float()
            spread = scale.repeat_interleave(32, 1).repeat_interleave(32, 2)
            meant[name] = tensors[name].float() * spread
        save_file(tensors, file)
    describe(tmp_path, {**FP8, "weight_block_size": [32, 32]})
    model = load_model(tmp_path, dtype="float32", device="cpu")
    expected = meaning(plain, meant, prompt(30))
    assert worst(model.compute_logits(prompt(30)), expected) < 1e-4


def test_a_scale_for_gate_and_one_for_up(plain: Reference, tmp_path: Path) -> None:
    """As they are where two matrices with one scale each were put below each other."""

    def halves(matrix: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        made = [float8(part, None) for part in matrix.chunk(2)]
        names = made[0][0]
        stored = {n: torch.cat([t[n].view(torch.uint8) for t, _ in made]) for n in names}
        typed = {n: stored[n].view(names[n].dtype) for n in names}
        scale = typed["weight_scale_inv"][:, None]
        return {**typed, "weight_scale_inv": scale}, torch.cat([meant for _, meant in made])

    expected = meaning(plain, write(plain, tmp_path, Case(FP8, halves)), prompt(20))
    model = load_model(tmp_path, dtype="float32", device="cpu")
    assert worst(model.compute_logits(prompt(20)), expected) < 1e-4


def test_scales_are_not_counted_as_weights(plain: Reference, tmp_path: Path) -> None:
    write(plain, tmp_path, BLOCKS)
    summary = inspect_checkpoint(tmp_path)
    assert summary.why_not is None
    assert summary.parameters == inspect_checkpoint(plain.folder).parameters
    model = load_model(tmp_path, dtype="float32", device="cpu")
    assert model.num_parameters == summary.parameters


def change(folder: Path, old: str, new: str, to: Tensor | None = None) -> None:
    """Rename or replace a tensor of the first layer."""
    file = folder / "0.safetensors"
    tensors = load_file(file)
    at = "model.layers.0.mlp.experts."
    found = tensors.pop(at + old)
    tensors[at + new] = found if to is None else to
    save_file(tensors, file)
    config = json.loads((folder / "config.json").read_text())
    describe(folder, config["quantization_config"])


@pytest.mark.parametrize(
    ("old", "new", "to", "message"),
    [
        ("gate_up_proj_scale_inv", "other", None, "gate_up_proj_scale_inv' is missing"),
        ("down_proj_scale_inv", "down_proj_scale_inv", torch.ones(15, 2, 2), r"\[16, 2, 2\]"),
        ("gate_up_proj", "gate_up_proj", torch.ones(16, 32, 64).to(torch.float8_e4m3fn), "64, 64"),
        ("gate_up_proj", "gate_up_proj.weight_packed", None, "a layout that is not supported"),
    ],
)
def test_damage_and_other_layouts_are_told(
    old: str, new: str, to: Tensor | None, message: str, plain: Reference, tmp_path: Path
) -> None:
    write(plain, tmp_path, BLOCKS)
    change(tmp_path, old, new, to)
    with pytest.raises(CheckpointError, match=message):
        load_model(tmp_path, dtype="float32", device="cpu")
