"""Quantised checkpoints are the models that their numbers mean, in every format."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from helexa.engine.checkpoint.summary import inspect_checkpoint
from helexa.engine.loading import load_model, resolve_numerics
from helexa.engine.quant.stored import load_matrix
from tests.engine.models.families import CLASSES, Family, Reference, cosine, hybrid, prompt, worst
from tests.engine.quant.cases import CASES, place
from tools.quantised import convert

CPU = torch.device("cpu")
TWO_LAYERS = {"num_hidden_layers": 2}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return Family("quantised", fields=TWO_LAYERS).save(tmp_path_factory.mktemp("plain"))


def meaning(base: Reference, tensors: dict[str, Tensor], ids: list[int]) -> Tensor:
    """The logits of the reference with these weights."""
    base.model.load_state_dict(tensors)
    return base.logits(ids)


@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_of_the_dequantised_model(
    name: str, base: Reference, tmp_path: Path
) -> None:
    meant = convert(base.folder, tmp_path, CASES[name])
    expected = meaning(base, meant, prompt(70))
    exact = load_model(tmp_path, dtype="float32", device="cpu")
    assert worst(exact.compute_logits(prompt(70)), expected) < 1e-5
    assert worst(exact.compute_logits(prompt(1)), expected[:1]) < 1e-5
    quick = load_model(tmp_path, dtype="bfloat16", device="cpu")
    assert cosine(quick.compute_logits(prompt(16)), expected[:16]) > 0.999
    plain = load_model(tmp_path, dtype="bfloat16", device="cpu", disabled=["quant_kernels"])
    assert cosine(plain.compute_logits(prompt(16)), expected[:16]) > 0.9999


@pytest.mark.parametrize("name", ["fp8-ragged", "gptq-order", "awq", "packed-4-zeros", "int8"])
@pytest.mark.parametrize("kind", ["qwen3_moe", "qwen3_next"])
def test_experts_and_recurrent_layers(kind: str, name: str, tmp_path: Path) -> None:
    family = Family(kind, kind, TWO_LAYERS) if kind == "qwen3_moe" else hybrid(kind, kind)
    plain = family.save(tmp_path / "plain")
    meant = convert(plain.folder, tmp_path / "quantised", CASES[name])
    save_file(meant, plain.folder / "model.safetensors", {"format": "pt"})
    model = CLASSES[kind][1].from_pretrained(plain.folder, attn_implementation="eager").eval()
    expected = Reference(plain.folder, model).logits(prompt(40))
    ours = load_model(tmp_path / "quantised", dtype="float32", device="cpu")
    assert worst(ours.compute_logits(prompt(40)), expected) < 2e-4


@pytest.mark.parametrize("name", CASES)
def test_a_quantised_model_is_summarised(name: str, base: Reference, tmp_path: Path) -> None:
    convert(base.folder, tmp_path, CASES[name])
    summary = inspect_checkpoint(tmp_path)
    assert summary.why_not is None
    assert summary.config is not None
    assert summary.config.quantization is not None
    plain = inspect_checkpoint(base.folder)
    assert summary.parameters == plain.parameters
    assert summary.bits_per_weight < plain.bits_per_weight == 32
    loaded = load_model(tmp_path, dtype="float32", device="cpu")
    assert loaded.num_parameters == summary.parameters
    need = summary.quantised_bytes + 4 * (summary.parameters - summary.quantised_parameters)
    assert loaded.nbytes < 1.2 * need


@cache
def matrices() -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(5)
    return tuple(torch.randn(rows, 128, generator=generator) for rows in (128, 40, 64))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", CASES)
def test_matrices_of_a_fused_layer(name: str, dtype: str, tmp_path: Path) -> None:
    case = CASES[name]
    written = [case.write(matrix) for matrix in matrices()]
    modules: dict[str, Any] = {f"part{i}": tensors for i, (tensors, _) in enumerate(written)}
    root = place(tmp_path, case.config, **modules)
    numerics = resolve_numerics(dtype, CPU, False)
    weight = load_matrix([root / name for name in modules], (128, 40, 64), 128, numerics)
    root.finish()
    expected = torch.cat([meant for _, meant in written])
    assert weight.shape == (232, 128)
    assert torch.equal(weight.matrix(), expected)
    for part in getattr(weight, "parts", (weight,)):
        assert torch.equal(part.rows(7, 40), part.matrix()[7:40])
        assert part.rows(3, 3).shape == (0, 128)
    for rows in (0, 1, 3, 17, 40):
        x = torch.randn(rows, 128)
        ours, exact = weight.matmul(x), x @ expected.T
        assert ours.shape == exact.shape
        assert ours.dtype == torch.float32
        if dtype == "float32":
            torch.testing.assert_close(ours, exact, atol=1e-4, rtol=1e-5)
        elif rows:
            assert (ours - exact).norm() < 0.01 * exact.norm()
