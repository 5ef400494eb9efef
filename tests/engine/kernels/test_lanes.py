"""The layout for compiled loops, run operator by operator, against the matrix it stands for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from helexa.engine.kernels.compiled import Compiler
from helexa.engine.kernels.lanes import (
    LANES,
    Factors,
    Form,
    Lanes,
    expanded,
    half_of_word,
    joined_halves,
    pack_words,
    row_product,
    tile,
)
from tests.engine.compilers import needs_compiler

COLUMNS, BLOCKS = 64, 2
FORMS = [
    Form(bits, group, zero, fine=fine, affine=not zero)
    for bits, group, zero, fine in [
        (2, 16, 0, True),
        (3, 16, 4, True),
        (4, 32, 8, False),
        (4, 32, 0, True),
        (5, 32, 0, False),
        (6, 16, 32, True),
        (8, 32, 128, False),
    ]
]
by_bits = pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form.bits}-{form.fine}")


def drawn(form: Form) -> tuple[Tensor, Lanes]:
    """Random integers [B · R, K], and the same laid out with random factors."""
    random = torch.Generator().manual_seed(form.bits)
    q = torch.randint(0, 1 << form.bits, (BLOCKS * form.rows, COLUMNS), generator=random)
    groups = COLUMNS // form.group

    def factors(low: int) -> Factors:
        shape = (BLOCKS, groups // 2 if form.fine else groups, form.places, LANES)
        coarse = (torch.rand(shape, generator=random) - 0.3).half()
        if not form.fine:
            return Factors(joined_halves(coarse))
        shape = (BLOCKS, groups, form.places, LANES)
        dtype = torch.int8 if low else torch.uint8
        return Factors(
            joined_halves(coarse), torch.randint(low, 64, shape, generator=random).to(dtype)
        )

    words = pack_words(q.to(torch.uint8), form)
    offset = factors(0) if form.affine else None
    return q, Lanes(words, factors(-64 if form.zero else 0), offset)


def plain(form: Form, q: Tensor, lanes: Lanes) -> Tensor:
    """The matrix [B · R, K] float64 by the formula (q − zero) · scale + offset."""

    def by_row(factors: Factors) -> Tensor:  # [B, G, P, 16] → [B · R, K]
        places = [half_of_word(factors.coarse[:, :, p // 2], p % 2) for p in range(form.places)]
        values = torch.stack(places, 2).double()
        if factors.fine is not None:
            values = values.repeat_interleave(2, 1) * factors.fine
        return values.permute(0, 2, 3, 1).flatten(0, 2).repeat_interleave(form.group, 1)

    out = (q - form.zero) * by_row(lanes.scale)
    return out if lanes.offset is None else out + by_row(lanes.offset)


@by_bits
def test_words_hold_the_integers(form: Form) -> None:
    q, lanes = drawn(form)
    mask = (1 << form.bits) - 1
    places = [(lanes.words >> (place * form.bits)) & mask for place in range(form.places)]
    rows = torch.stack(places, 1).transpose(2, 3).reshape(q.shape)  # [B, P, 16, K]
    assert torch.equal(rows.long(), q)


@by_bits
def test_the_product_is_that_of_the_matrix(form: Form) -> None:
    q, lanes = drawn(form)
    matrix = plain(form, q, lanes)
    x = torch.randn(2, COLUMNS, generator=torch.Generator().manual_seed(1))
    found = row_product(form, x, *lanes.tensors())
    wanted = x.double() @ matrix.T
    assert found.shape == wanted.shape
    assert (found - wanted).norm() < 1e-6 * (x.abs().double() @ matrix.abs().T).norm()


@needs_compiler
@pytest.mark.parametrize("bits", [5, 6])
def test_compiled_products(bits: int) -> None:
    """Words with places that are not full, with offsets and without."""
    form = next(form for form in FORMS if form.bits == bits)
    q, lanes = drawn(form)
    matrix, tensors, compiler = plain(form, q, lanes), lanes.tensors(), Compiler()
    x = torch.randn(1, COLUMNS, generator=torch.Generator().manual_seed(2))
    kernel = compiler.kernel(row_product, (form,), [x, *tensors])
    kernel.wanted = True
    assert list(compiler.compile()) == [1]
    assert kernel.run is not kernel.definition
    found = kernel(x, *tensors)
    (found,) = found if isinstance(found, list | tuple) else (found,)
    wanted = x.double() @ matrix.T
    assert found.shape == wanted.shape
    assert (found - wanted).norm() < 1e-6 * (x.abs().double() @ matrix.abs().T).norm()


@by_bits
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_the_tile_is_the_matrix_transposed(form: Form, dtype: torch.dtype) -> None:
    q, lanes = drawn(form)
    found = tile(form, dtype, *lanes.tensors())
    wanted = plain(form, q, lanes).T
    assert found.dtype == dtype
    assert found.shape == wanted.shape
    error = 2e-6 if dtype == torch.float32 else 2**-8
    assert torch.allclose(found.double(), wanted, rtol=error, atol=error)
    second = expanded(form, lanes.blocks(1, 2), form.places - 1)
    assert torch.allclose(second[0].T.double(), wanted.T[-LANES:], rtol=2e-6, atol=2e-6)


@by_bits
def test_a_form_finds_its_tensors_again(form: Form) -> None:
    _, lanes = drawn(form)
    again = form.lanes(lanes.tensors())
    assert again.words is lanes.words
    assert torch.equal(again.scale.place(1), lanes.scale.place(1))
    assert (again.offset is None) == (lanes.offset is None)


def test_words_hold_every_number_of_float16() -> None:
    """But infinities and what is no number."""
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int16)
    halves = bits.view(torch.float16)
    halves = halves[halves.isfinite()][: 3 * 16 * 1321].view(1, -1, 3, 16)
    words = joined_halves(halves)
    assert words.shape[2] == 2
    found = torch.stack([half_of_word(words[:, :, p // 2], p % 2) for p in range(3)], 2)
    assert torch.equal(found, halves.float())
    assert halves[halves != 0].abs().min() == 2.0**-24
