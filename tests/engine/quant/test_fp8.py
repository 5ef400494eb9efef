"""FP8: every code, every shape of blocks, and what transformers writes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import FineGrainedFP8Config
from transformers.integrations.finegrained_fp8 import Fp8Dequantize, Fp8Quantize

from helexa.engine.kernels.narrow_product import multiplies_bfloat16
from helexa.engine.loading import resolve_numerics
from helexa.engine.quant.scaled import Scaled, ScaledWeight, scaled_weight
from helexa.engine.quant.stack import StackedWeight
from helexa.engine.quant.stored import load_matrix
from helexa.errors import CheckpointError
from tests.engine.quant.cases import place
from tools.quantised import FP8, float8

CPU = torch.device("cpu")
EXACT = resolve_numerics("float32", CPU, False)
HALF = resolve_numerics("float16", CPU, False)
PLAIN = resolve_numerics("float32", CPU, False, ["quant_kernels"])


@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    block=st.tuples(st.integers(1, 50), st.integers(1, 50)),
)
def test_ragged_blocks(rows: int, columns: int, block: tuple[int, int]) -> None:
    tensors, meant = float8(torch.randn(rows, columns), block)
    part = Scaled("m", tensors["weight"], tensors["weight_scale_inv"], block)
    for numerics in (EXACT, PLAIN):
        weight = scaled_weight([part], numerics)
        assert torch.equal(weight.matrix(), meant)
        x = torch.randn(3, columns)
        torch.testing.assert_close(weight.matmul(x), x @ meant.T, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 3e4])
@pytest.mark.parametrize("block", [(128, 128), (32, 48), (16, 512), (500, 64), (1, 512)])
def test_one_row_in_float16(block: tuple[int, int], scale: float) -> None:
    tensors, meant = float8(torch.randn(300, 512) * scale, block)
    part = Scaled("m", tensors["weight"], tensors["weight_scale_inv"], block)
    weight = scaled_weight([part], HALF)
    assert isinstance(weight, ScaledWeight)
    assert weight.one_row
    for size in (1e-6, 1.0, 1e6):
        x = torch.randn(1, 512) * size
        expected = x @ meant.T
        ours = weight.matmul(x)
        assert ours.shape == expected.shape
        assert 0 < (ours - expected).norm() < 2e-3 * expected.norm()
    both = weight.matmul(torch.ones(2, 512))
    torch.testing.assert_close(both, torch.ones(2, 512) @ meant.T, atol=1e-3 * scale, rtol=1e-4)


@pytest.mark.skipif(not multiplies_bfloat16(), reason="this CPU has no instructions for it")
def test_many_rows_are_multiplied_in_bfloat16() -> None:
    """Each factor and each result rounded to its eight bits; few rows, and small matrices, not."""
    tensors, meant = float8(torch.randn(512, 1024), (128, 128))
    part = Scaled("m", tensors["weight"], tensors["weight_scale_inv"], (128, 128))
    weight = scaled_weight([part], HALF)
    assert isinstance(weight, ScaledWeight)
    assert weight.bfloat16
    x = torch.randn(40, 1024)
    off = (weight.matmul(x) - x @ meant.T).abs()
    assert (off <= 3.02 * 2.0**-8 * (x.abs() @ meant.abs().T)).all()
    assert off.max() > 0.01
    torch.testing.assert_close(weight.matmul(x[:3]), x[:3] @ meant.T, atol=1e-3, rtol=1e-4)
    tensors, _ = float8(torch.randn(384, 1024), (128, 128))
    small = Scaled("m", tensors["weight"], tensors["weight_scale_inv"], (128, 128))
    for stored, numerics in ((small, HALF), (part, EXACT)):
        exact = scaled_weight([stored], numerics)
        assert isinstance(exact, ScaledWeight)
        assert not exact.bfloat16


def test_one_row_is_exact_where_that_is_asked_for() -> None:
    tensors, _ = float8(torch.randn(64, 64), (32, 32))
    part = Scaled("m", tensors["weight"], tensors["weight_scale_inv"], (32, 32))
    for numerics in (EXACT, PLAIN, resolve_numerics("float16", CPU, False, ["quant_kernels"])):
        weight = scaled_weight([part], numerics)
        assert isinstance(weight, ScaledWeight)
        assert not weight.one_row


def test_parts_whose_blocks_end_with_them_are_one() -> None:
    made = [float8(torch.randn(rows, 64), (32, 32)) for rows in (64, 32, 20, 64)]
    parts = [Scaled("m", t["weight"], t["weight_scale_inv"], (32, 32)) for t, _ in made]
    weight = scaled_weight(parts, EXACT)
    assert isinstance(weight, StackedWeight)
    assert [part.shape[0] for part in weight.parts] == [116, 64]
    assert torch.equal(weight.matrix(), torch.cat([meant for _, meant in made]))
    assert isinstance(scaled_weight(parts[:3], EXACT), ScaledWeight)
    assert weight.nbytes == 180 * 64 + 4 * (4 + 2) * 2


@pytest.mark.parametrize("scales", ["float", "ue8m0"])
def test_a_matrix_that_transformers_wrote_is_what_it_reads(scales: str, tmp_path: Path) -> None:
    config = FineGrainedFP8Config(weight_block_size=(32, 64), scale_fmt=scales)
    library = SimpleNamespace(quantization_config=config)
    matrix = torch.randn(96, 128)
    written = Fp8Quantize(library).convert({"m.weight": matrix})
    meant = Fp8Dequantize(library).convert(
        {"weight": written["m.weight"], "weight_scale_inv": written["m.weight_scale_inv"]}
    )
    root = place(tmp_path, {**FP8, "weight_block_size": [32, 64]}, m=modules(written))
    ours = load_matrix([root / "m"], (96,), 128, EXACT).matrix()
    assert torch.equal(ours, meant["weight"].float())
    assert (ours - matrix).norm() < 0.05 * matrix.norm()


def modules(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix("m."): tensor for name, tensor in tensors.items()}


def test_what_is_there_for_activations_is_read_over(tmp_path: Path) -> None:
    tensors, meant = float8(torch.randn(32, 32), (16, 16))
    config = {**FP8, "activation_scheme": "static", "weight_block_size": [16, 16]}
    root = place(tmp_path, config, m={**tensors, "input_scale": torch.ones(1)})
    assert torch.equal(load_matrix([root / "m"], (32,), 32, EXACT).matrix(), meant)
    root.finish()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"weight_scale_inv": None}, r"tensor 'm.weight_scale_inv' is missing"),
        ({"weight_scale_inv": torch.ones(3, 2)}, r"shape \[3, 2\], its config asks for \[2, 2\]"),
        ({"weight": torch.zeros(32, 8).to(torch.float8_e4m3fn)}, r"'m.weight'.* has shape"),
        ({"weight": torch.full((32, 32), float("nan")).to(torch.float8_e4m3fn)}, "holds NaN"),
        ({"weight": torch.zeros(32, 32).to(torch.float8_e5m2)}, "'m.weight'.* dtype F8_E5M2"),
    ],
)
def test_damage_is_told(
    wrong: dict[str, torch.Tensor | None], message: str, tmp_path: Path
) -> None:
    tensors, _ = float8(torch.randn(32, 32), (16, 16))
    given = {name: t for name, t in {**tensors, **wrong}.items() if t is not None}
    root = place(tmp_path, {**FP8, "weight_block_size": [16, 16]}, m=given)
    with pytest.raises(CheckpointError, match=message):
        load_matrix([root / "m"], (32,), 32, EXACT)


def test_scales_that_are_neither_one_nor_a_row_each_are_told(tmp_path: Path) -> None:
    tensors, _ = float8(torch.randn(32, 32), None, "weight_scale")
    root = place(tmp_path, FP8, m={**tensors, "weight_scale": torch.ones(5)})
    with pytest.raises(CheckpointError, match=r"'m.weight_scale' has shape \[5\]"):
        load_matrix([root / "m"], (32,), 32, EXACT)
