"""Tiles in oneDNN's order: against the formula of the order, `gguf`, the plain tile, products."""

from __future__ import annotations

import threading
from pathlib import Path

import gguf
import pytest
import torch
from torch import Tensor

from helexa.engine.kernels import onednn_order, onednn_tiles
from helexa.engine.kernels.compiled import Compiler
from helexa.engine.kernels.lanes import Form, Lanes, tile
from helexa.engine.kernels.narrow_product import reordered_product
from helexa.engine.kernels.onednn_order import (
    is_paired,
    looked_at,
    padded_shape,
    whole_blocks,
)
from helexa.engine.kernels.onednn_tiles import (
    SOURCE,
    Rooms,
    compiled_fill,
    make_room,
    ordered_kernel,
    ordered_tiles,
)
from helexa.engine.kernels.paired import BLOCK, paired_matrix, paired_words
from helexa.engine.quant.blocks.lanes import LaneSink
from helexa.engine.quant.blocks.types import BLOCK_TYPES
from tests.engine.compilers import needs_compiler
from tests.engine.kernels.test_lanes import COLUMNS, by_bits, drawn
from tests.engine.quant.blocks.test_block_weight import made

SIZES = [(1, 64), (80, 96), (100, 256), (130, 62)]


def can_order() -> bool:
    return all(is_paired(*size) for size in SIZES)


needs_order = pytest.mark.skipif(not can_order(), reason="oneDNN has another order here, or none")


def ordered(matrix: Tensor) -> Tensor:
    """The words of a matrix [N, K] bfloat16."""
    return paired_words(whole_blocks(matrix)).contiguous()


def expected(form: Form, lanes: Lanes) -> Tensor:
    """The matrix [B · R, K] as it is without an order."""
    return tile(form, torch.bfloat16, *lanes.tensors()).T


@needs_order
@pytest.mark.parametrize(("rows", "columns"), SIZES)
def test_what_is_written_in_a_room_is_multiplied(rows: int, columns: int) -> None:
    """Which is what all the rest relies on."""
    random = torch.Generator().manual_seed(2)
    matrix = torch.randint(-3, 4, (rows, columns), generator=random).bfloat16()
    x = torch.randint(-3, 4, (40, columns), generator=random).bfloat16()
    room = make_room(rows, columns)
    room.words.copy_(ordered(matrix))
    found = reordered_product(x, room.matrix)
    assert torch.equal(found, (x.float() @ matrix.float().T).bfloat16())


@needs_compiler
@pytest.mark.parametrize("instruction", [True, False])
@pytest.mark.parametrize("name", ["Q8_0", "Q6_K", "Q5_1", "Q4_K", "Q3_K"])
def test_compiled_tiles_are_what_the_package_reads(
    name: str, instruction: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit, with the CPU's instruction that rounds to bfloat16, if any, and without."""
    if not instruction:
        without = tmp_path / SOURCE.name
        without.write_text(f"#undef __AVX512BF16__\n{SOURCE.read_text()}")
        monkeypatch.setattr(onednn_tiles, "SOURCE", without)
    for rows in (1, 97, 130):
        blocks = made(BLOCK_TYPES[name], rows)
        wanted = gguf.quants.dequantize(blocks.numpy(), gguf.GGMLQuantizationType[name])
        sink = LaneSink(BLOCK_TYPES[name], *wanted.shape)
        sink.fill(0, blocks)
        weight = sink.weight(Compiler(), torch.float32)
        whole, columns = padded_shape(len(weight.lanes.words) * weight.form.rows, wanted.shape[1])
        words = torch.zeros(whole // BLOCK, columns // 2, BLOCK, dtype=torch.int32)
        compiled_fill(weight.form)(words, *weight.lanes.tensors())
        found = paired_matrix(words)
        assert torch.equal(found[:rows], torch.from_numpy(wanted).bfloat16())
        assert not found[rows:].any()


@needs_order
@needs_compiler
@by_bits
@pytest.mark.parametrize("lifted", [False, True])
def test_compiled_tiles_are_the_plain_ones(form: Form, lifted: bool) -> None:
    """To the bit, but for zero's sign: rounding to bfloat16, too, and padding stays zero."""
    form = Form(form.bits, form.group, form.zero, form.fine, form.affine, lifted)
    _, lanes = drawn(form)
    wanted = expected(form, lanes)
    words = make_room(*wanted.shape).words
    compiled_fill(form)(words, *lanes.tensors())
    found = words.view(torch.bfloat16)
    exact = 0.0 if not form.affine else 2.0**-8  # a sum may be rounded once or twice before
    torch.testing.assert_close(found, ordered(wanted).view(torch.bfloat16), rtol=exact, atol=exact)


@needs_order
@needs_compiler
def test_offsets_are_added_before_rounding() -> None:
    """Once: within half a unit of bfloat16 of the number itself."""
    form = Form(4, 32, 0, fine=True, affine=True)
    _, lanes = drawn(form)
    wanted = tile(form, torch.float32, *lanes.tensors()).T
    words = make_room(*wanted.shape).words
    compiled_fill(form)(words, *lanes.tensors())
    found = torch.stack([words << 16, words & -(2**16)], 2).view(torch.float32)
    found = found.flatten(1, 2).transpose(1, 2).reshape(-1, COLUMNS)[: len(wanted)]
    assert ((found - wanted).abs() <= wanted.abs() * (2.0**-8 + 1e-5) + 1e-5).all()


@needs_order
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=needs_compiler)])
def test_products_by_many_threads_are_their_own(compiled: bool) -> None:
    """Rooms are kept and used again, by one thread at a time."""
    form = Form(6, 16, 32, fine=True, affine=False)
    rooms = Rooms()
    kernel = ordered_kernel(form, rooms)
    if compiled:
        kernel.compile()
        assert kernel.run is not kernel.definition
    _, lanes = drawn(form)
    parts = [lanes.blocks(0, 1), lanes.blocks(1, 2), lanes]
    x = torch.randn(20, COLUMNS, generator=torch.Generator().manual_seed(3)).bfloat16()
    wanted = [kernel(x, *part.tensors()) for part in parts]
    for product, part in zip(wanted, parts, strict=True):
        plain = x.float() @ expected(form, part).float().T
        assert (product.float() - plain).norm() < 4e-3 * plain.norm()
    wrong, start = [], threading.Barrier(3)

    def work(index: int) -> None:
        start.wait()
        for turn in range(60):
            which = (index + turn) % 3
            if not torch.equal(kernel(x, *parts[which].tensors()), wanted[which]):
                wrong.append(which)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    kept = [len(free) for free in rooms.free.values()]
    assert len(kept) == 2 and all(1 <= count <= 3 for count in kept)


@needs_order
def test_a_room_is_given_back_after_an_error() -> None:
    rooms = Rooms()
    with pytest.raises(KeyError), rooms.room(64, 64) as first:
        raise KeyError
    with rooms.room(64, 64) as again, rooms.room(64, 64) as other:
        assert again is first
        assert other.words.data_ptr() != first.words.data_ptr()


@needs_order
def test_forms_share_their_tiles() -> None:
    compiler, form = Compiler(), Form(8, 32, 128, fine=False, affine=False)
    one = ordered_tiles(compiler, form, {64, 128}, 64)
    assert one is not None
    assert ordered_tiles(compiler, form, {192}, 128) is one
    other = Form(8, 32, 128, fine=False, affine=False, lifted=True)
    assert ordered_tiles(compiler, other, {64}, 64) is not one


@needs_order
def test_another_order_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """And none of it is used."""
    form = Form(8, 32, 128, fine=False, affine=False)
    monkeypatch.setattr(onednn_order, "paired_words", lambda matrix: -paired_words(matrix))
    looked_at.cache_clear()
    try:
        assert ordered_tiles(Compiler(), form, {64}, 64) is None
    finally:
        looked_at.cache_clear()
