"""Block formats in the layout for compiled loops: exact, whatever their bits."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from helexa.engine.kernels.compiled import Compiler
from helexa.engine.kernels.few_rows import PLAIN
from helexa.engine.kernels.lanes import tile
from helexa.engine.quant.blocks import lanes, weight
from helexa.engine.quant.blocks.lanes import LaneSink, LaneWeight, plain_product
from helexa.engine.quant.blocks.rows import stored_rows
from helexa.engine.quant.blocks.types import BLOCK_TYPES
from helexa.engine.quant.blocks.weight import fast_weight
from helexa.engine.quant.dense import DenseFormat
from helexa.engine.quant.weight import multiplied
from tests.engine.compilers import needs_compiler
from tests.engine.kernels.test_narrow_product import needs_bfloat16
from tests.engine.quant.blocks.test_block_weight import check, made, relative

CPU = torch.device("cpu")
RAGGED = (("Q6_K", 83), ("Q4_K", 5), ("Q5_K", 97), ("Q8_0", 65), ("Q3_K", 161))


def laid_out(
    name: str, rows: int, dtype: torch.dtype, columns: int = 512
) -> tuple[LaneWeight, torch.Tensor, Compiler]:
    """A weight, the matrix it is to be, and what compiles its kernels."""
    type, compiler = BLOCK_TYPES[name], Compiler()
    blocks = made(type, rows, columns)
    sink = LaneSink(type, rows, columns)
    stored_rows(type, [blocks], columns).write(sink, sink.form.rows)
    return sink.weight(compiler, dtype), type.matrix(blocks), compiler


@pytest.mark.parametrize("rows", [1, 37, 300])
@pytest.mark.parametrize("name", BLOCK_TYPES)
def test_exact(name: str, rows: int) -> None:
    weight, matrix, _ = laid_out(name, rows, torch.float32)
    assert torch.equal(weight.matrix(), matrix)
    assert torch.equal(weight.rows(rows // 3, rows), matrix[rows // 3 :])
    check(weight, matrix, 0)


@pytest.mark.parametrize("name", BLOCK_TYPES)
def test_size(name: str) -> None:
    """Little more than the blocks themselves."""
    type = BLOCK_TYPES[name]
    places = 32 // type.bits
    weight, _, _ = laid_out(name, 16 * places, torch.float32)
    spare = 32 / (places * type.bits)  # bits of a word that nothing is in
    small = 16 if type.bits < 4 else 8  # bits that a scale of six or four bits is kept in
    assert weight.nbytes <= 16 * places * type.row_bytes(512) * max(spare, 1.2 * small / 8)
    if name == "Q4_K":
        assert weight.nbytes / (16 * places * 512) <= 20 / 32


@pytest.mark.parametrize("name", ["Q4_K", "Q8_0"])
def test_many_rows_in_bfloat16(name: str) -> None:
    weight, matrix, _ = laid_out(name, 300, torch.bfloat16)
    x = torch.randn(9, 512, generator=torch.Generator().manual_seed(2))
    y = x @ matrix.T
    assert weight.matmul(x).dtype == torch.float32
    assert (weight.matmul(x) - y).norm() < 4e-3 * y.norm()


def test_tiles_that_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "TILE_BYTES", 4 * 64 * 512 * 2)
    weight, matrix, _ = laid_out("Q8_0", 64 * 4 + 5, torch.float32)
    assert weight.tiles.blocks == 2
    check(weight, matrix, 0)


@pytest.mark.parametrize(("rows", "tiles"), [(64 * 2, 1), (64 * 4 + 5, 3), (64 * 6, 3)])
def test_each_tile_has_the_size_it_is_compiled_for(
    rows: int, tiles: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiled, none of any other would be computed rightly."""
    monkeypatch.setattr(lanes, "TILE_BYTES", 4 * 64 * 512 * 2)
    weight, matrix, _ = laid_out("Q8_0", rows, torch.float32)
    multiply, seen = weight.tiles.multiply, []

    def noted(x: torch.Tensor, *tensors: torch.Tensor) -> torch.Tensor:
        seen.append([tuple(tensor.shape) for tensor in tensors])
        return multiply(x, *tensors)

    weight = replace(weight, tiles=replace(weight.tiles, multiply=noted))
    x = torch.randn(PLAIN.most + 1, 512, generator=torch.Generator().manual_seed(1))
    assert relative(weight.matmul(x), x @ matrix.T) < 3e-6
    compiled_for = weight.lanes.blocks(0, weight.tiles.blocks).tensors()
    assert seen == [[tuple(tensor.shape) for tensor in compiled_for]] * tiles


@pytest.mark.parametrize("x_rows", [1, 4])
def test_matrices_below_each_other(x_rows: int) -> None:
    """In a larger function, of rows that fill none of their words."""
    made = [laid_out(name, rows, torch.float32)[:2] for name, rows in RAGGED]
    recipes = [weight.traced for weight, _ in made]
    x = torch.randn(x_rows, 512, generator=torch.Generator().manual_seed(3))
    tensors = [tensor for recipe in recipes for tensor in recipe.tensors]
    for count in (1, len(made)):
        wanted = torch.cat([x @ matrix.T for _, matrix in made[:count]], 1)
        found = multiplied([recipe.recipe for recipe in recipes[:count]], x, tensors)
        assert found.shape == wanted.shape
        assert relative(found, wanted) < 3e-6


@needs_compiler
@pytest.mark.parametrize("name", ["Q4_K"])
def test_compiled(name: str) -> None:
    weight, matrix, compiler = laid_out(name, 100, torch.float32, 256)
    assert len(compiler) == 1  # the tile of a prompt
    weight.few.want()
    assert list(compiler.compile()) == [1, 2, 3]
    check(weight, matrix, 0)


def test_taken_with_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """For exact weights, too; small matrices stay plain."""
    monkeypatch.setattr(weight, "SMALL_MATRIX", 600)
    type = BLOCK_TYPES["Q6_K"]
    for dtype in (torch.float32, torch.float16):
        dense = DenseFormat(dtype, CPU, compiler=Compiler())
        rows = stored_rows(type, [made(type, 9)], 512)
        assert isinstance(fast_weight(rows, dense), LaneWeight)
        small = stored_rows(type, [made(type, 1)], 512)
        assert not isinstance(fast_weight(small, dense), LaneWeight)


@pytest.mark.parametrize("name", [name for name, type in BLOCK_TYPES.items() if type.quantise])
def test_small_scales_survive_threads_that_know_no_subnormal_numbers(name: str) -> None:
    """Such scales are common: a matrix of numbers around 0.02 has them in Q6_K."""
    type = BLOCK_TYPES[name]
    assert type.quantise is not None
    noise = torch.randn(64, 512, generator=torch.Generator().manual_seed(3)) * 2e-3
    blocks = type.quantise(noise.view(64, -1, type.elements)).flatten(1)
    sink = LaneSink(type, 64, 512)
    stored_rows(type, [blocks], 512).write(sink, sink.form.rows)
    weight = sink.weight(Compiler(), torch.float32)
    assert weight.form.lifted
    x = torch.randn(2, 512, generator=torch.Generator().manual_seed(4))
    expected = type.matrix(blocks)
    try:
        if not torch.set_flush_denormal(True):
            pytest.skip("this CPU always knows them")
        found, y = weight.matrix(), weight.matmul(x)
    finally:
        torch.set_flush_denormal(False)
    assert torch.equal(found, expected)
    assert torch.allclose(y, x @ expected.T, rtol=1e-4, atol=1e-6)


def test_large_scales_are_left_as_they_are() -> None:
    type = BLOCK_TYPES["Q8_0"]
    blocks = made(type, 32, 512)
    blocks.view(32, -1, type.nbytes)[..., :2] = torch.tensor([-1, 0x7B], dtype=torch.int8).byte()
    sink = LaneSink(type, 32, 512)
    stored_rows(type, [blocks], 512).write(sink, sink.form.rows)
    weight = sink.weight(Compiler(), torch.float32)
    assert not weight.form.lifted
    assert weight.matrix().isfinite().all()
    assert torch.equal(weight.matrix(), type.matrix(blocks))


def bfloat16_product(weight: LaneWeight, x: torch.Tensor) -> torch.Tensor:
    """Many rows by one plain tile, not reordered ones."""
    one = partial(tile, weight.form, torch.bfloat16)
    blocks = len(weight.lanes.words)
    plain = replace(weight.tiles, multiply=partial(plain_product, one), blocks=blocks)
    return replace(weight, tiles=plain).matmul(x)


@needs_bfloat16
@pytest.mark.parametrize("name", ["Q6_K", "Q4_K", "Q8_0", "Q3_K", "Q5_K"])
@pytest.mark.parametrize("rows", [80, 500])
def test_ordered_tiles_change_nothing(
    name: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several tiles, the last one shorter; rounded to bfloat16 either way."""
    monkeypatch.setattr(lanes, "TILE_BYTES", 200 * 512 * 2)
    weight, _, compiler = laid_out(name, rows, torch.bfloat16)
    x = torch.randn(PLAIN.most + 8, 512, generator=torch.Generator().manual_seed(2))
    assert not weight.tiles.any_size or compiler.wanted() == [weight.tiles.multiply]
    assert torch.equal(weight.matmul(x), bfloat16_product(weight, x))


def test_without_an_order_tiles_are_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "ordered_tiles", lambda *args: None)
    weight, matrix, compiler = laid_out("Q6_K", 500, torch.bfloat16)
    kernels: list[Any] = compiler.wanted()
    assert [kernel.definition.func for kernel in kernels] == [tile]
    x = torch.randn(PLAIN.most + 1, 512, generator=torch.Generator().manual_seed(2))
    assert relative(weight.matmul(x), x @ matrix.T) < 4e-3
