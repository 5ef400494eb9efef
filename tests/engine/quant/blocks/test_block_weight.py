"""Weights in blocks: every layout multiplies like the matrix that the blocks stand for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from helexa.engine.kernels.bags import can_bag
from helexa.engine.kernels.int4_groups import block_rows
from helexa.engine.kernels.matvec import Scratch
from helexa.engine.quant.blocks import weight as weights
from helexa.engine.quant.blocks.bags import BagSink, BagWeight
from helexa.engine.quant.blocks.block_type import BlockType
from helexa.engine.quant.blocks.int4 import Int4Sink, Int4Weight, int4_rows
from helexa.engine.quant.blocks.rows import Sink, quantised_rows, stored_rows
from helexa.engine.quant.blocks.types import BLOCK_TYPES
from helexa.engine.quant.blocks.weight import BlockWeight, fast_weight, kept_weight
from helexa.engine.quant.dense import DenseFormat, DenseWeight
from helexa.engine.quant.weight import Weight

CPU = torch.device("cpu")
HALF = DenseFormat(torch.float16, CPU)
EXACT = DenseFormat(torch.float32, CPU)
TOKENS = [1, 2, 5, 13, 40]
FOUR_BITS = ["Q4_0", "Q4_1", "Q4_K"]
needs_int4 = pytest.mark.skipif(block_rows() is None, reason="torch has no fast int4 operator here")
needs_bags = pytest.mark.skipif(not can_bag(), reason="torch is built without FBGEMM")


def made(type: BlockType, rows: int, columns: int = 512) -> Tensor:
    """Blocks of a random matrix; of types that cannot be made, random ones with moderate scales."""
    random = torch.Generator().manual_seed(rows)
    if type.quantise is not None:
        return type.rows(torch.randn(rows, columns, generator=random))
    blocks = torch.randint(0, 256, (rows, columns // type.elements, type.nbytes), generator=random)
    scales = {"Q2_K": (80, 82), "Q3_K": (108,)}[type.name]
    for at in scales:
        blocks[..., at + 1] = 0x24  # about 0.02
    return blocks.to(torch.uint8).flatten(1)


def written(sink: Sink, type: BlockType, blocks: Tensor, columns: int = 512) -> None:
    stored_rows(type, [blocks], columns).write(sink)


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def check(weight: Weight, matrix: Tensor, limit: float) -> None:
    """`matrix`, `matmul` and the size, for one row, few and many."""
    assert weight.shape == tuple(matrix.shape)
    assert relative(weight.matrix(), matrix) <= limit
    for tokens in TOKENS:
        x = torch.randn(tokens, matrix.shape[1], generator=torch.Generator().manual_seed(tokens))
        y = weight.matmul(x)
        assert y.shape == (tokens, len(matrix))
        assert y.dtype == torch.float32
        assert relative(y, x @ matrix.T) <= max(limit, 2e-6) * 1.5


@pytest.mark.parametrize("name", BLOCK_TYPES)
def test_blocks_are_multiplied_tile_by_tile(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    type = BLOCK_TYPES[name]
    blocks = made(type, 37)
    monkeypatch.setattr(weights, "TILE_BYTES", 4 * 512 * 10)
    weight = BlockWeight(type, blocks, Scratch())
    assert weight.nbytes == blocks.nbytes
    check(weight, type.matrix(blocks), 0)
    assert torch.equal(weight.rows(5, 9), weight.matrix()[5:9])
    half = weight.matmul(torch.ones(1, 512, dtype=torch.bfloat16))
    assert half.dtype == torch.bfloat16


@needs_bags
@pytest.mark.parametrize("rows", [4, 37, 100])
@pytest.mark.parametrize("name", BLOCK_TYPES)
def test_bags(name: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exact but for sums and, in the formats of 256, scales rounded to float16."""
    monkeypatch.setattr("helexa.engine.quant.blocks.bags.CHUNK_ROWS", 48)
    type = BLOCK_TYPES[name]
    blocks = made(type, rows)
    sink = BagSink(type, rows, 512)
    written(sink, type, blocks)
    weight = sink.weight(bfloat16=False)
    assert isinstance(weight, BagWeight)
    check(weight, type.matrix(blocks), 1e-3 if type.elements == 256 else 0)
    assert torch.equal(weight.rows(1, 3), weight.matrix()[1:3])
    assert torch.equal(weight.rows(0, rows), weight.matrix())


@needs_int4
@pytest.mark.parametrize("rows", [5, 16, 64, 150])
@pytest.mark.parametrize("name", FOUR_BITS)
def test_int4(name: str, rows: int) -> None:
    """As good as bfloat16 is: 2⁻⁹ for each of activations, scales and results."""
    type = BLOCK_TYPES[name]
    blocks = made(type, rows)
    size = int4_rows(type)
    assert size is not None
    sink = Int4Sink(type, rows, 512, size)
    written(sink, type, blocks)
    weight = sink.weight()
    assert isinstance(weight, Int4Weight)
    check(weight, type.matrix(blocks), 4e-3)
    assert torch.equal(weight.rows(3, 5), weight.matrix()[3:5])


@pytest.mark.parametrize(
    ("name", "dense", "kind"),
    [
        pytest.param("Q4_K", HALF, Int4Weight, marks=needs_int4),
        pytest.param("Q6_K", HALF, BagWeight, marks=needs_bags),
        pytest.param("Q8_0", EXACT, BagWeight, marks=needs_bags),
        pytest.param("Q4_0", EXACT, BagWeight, marks=needs_bags),
        ("Q6_K", EXACT, type(None)),
        ("Q4_K", DenseFormat(torch.float16, CPU, kernels=False), type(None)),
    ],
)
def test_which_layout_is_taken(
    name: str, dense: DenseFormat, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    block_type = BLOCK_TYPES[name]
    blocks = made(block_type, 9)
    rows = stored_rows(block_type, [blocks], 512)
    small = fast_weight(rows, dense)
    assert isinstance(small, DenseWeight if dense.kernels else type(None))
    monkeypatch.setattr(weights, "SMALL_MATRIX", 0)
    assert isinstance(fast_weight(rows, dense), kind)
    kept = kept_weight(rows, dense)
    assert torch.equal(kept.matrix(), block_type.matrix(blocks))


@needs_bags
def test_scales_that_a_layout_cannot_hold_stay_in_their_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(weights, "SMALL_MATRIX", 0)
    type = BLOCK_TYPES["Q6_K"]
    blocks = made(type, 9)
    blocks[:, 208:210] = torch.tensor([0xFF, 0x7B], dtype=torch.uint8)  # d = 65504
    assert fast_weight(stored_rows(type, [blocks], 512), HALF) is None


@pytest.mark.parametrize("name", ["Q4_K", "Q8_0"])
def test_several_matrices_and_pieces(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces may begin in one matrix and end in the next; threads write them in any order."""
    monkeypatch.setattr("helexa.engine.quant.blocks.rows.PIECE_ELEMENTS", 1)
    monkeypatch.setattr("helexa.engine.quant.blocks.rows.LARGE", 1)
    type = BLOCK_TYPES[name]
    parts = [torch.randn(n, 256).bfloat16() for n in (50, 70, 131)]
    rows = quantised_rows(type, parts)
    assert len(list(rows.pieces())) > 3
    whole = type.rows(torch.cat(parts).float())
    assert torch.equal(kept_weight(rows, HALF).matrix(), type.matrix(whole))
    fast = fast_weight(rows, HALF)
    assert fast is not None
    assert torch.allclose(fast.matrix(), type.matrix(whole), atol=1e-6)
