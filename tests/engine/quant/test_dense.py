"""Which form a plain matrix is kept in, and that every form multiplies alike."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from helexa.engine.kernels.compiled import Compiler
from helexa.engine.kernels.narrow_product import multiplies_bfloat16
from helexa.engine.kernels.onednn_order import is_paired
from helexa.engine.kernels.packed import can_pack
from helexa.engine.quant import dense
from helexa.engine.quant.dense import (
    DenseFormat,
    DenseWeight,
    FloatWeight,
    HalfWeight,
    PackedWeight,
    ReorderedWeight,
    StreamedWeight,
    fits_bfloat16,
    fits_float16,
    in_pieces,
)
from helexa.engine.quant.paired import OrderedWeight, PairedWeight

CPU = torch.device("cpu")
needs_bfloat16 = pytest.mark.skipif(
    not multiplies_bfloat16(), reason="this CPU has no instructions for it"
)
needs_pairs = pytest.mark.skipif(
    not is_paired(1536, 512), reason="oneDNN has another order for this CPU"
)


def matrix(rows: int, columns: int, scale: float = 0.1) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows)) * scale


def half(*, packed: bool = False, kernels: bool = True, bfloat16: bool = False) -> DenseFormat:
    return DenseFormat(torch.bfloat16, CPU, packed=packed, kernels=kernels, bfloat16=bfloat16)


def compiled(*, bfloat16: bool = False, output: bool = False) -> DenseFormat:
    """With a compiler that has not compiled anything yet."""
    return DenseFormat(torch.bfloat16, CPU, compiler=Compiler(), bfloat16=bfloat16, output=output)


LARGE = [matrix(1030, 512).bfloat16(), matrix(506, 512).bfloat16()]
WIDE = [part * 2.0**20 for part in LARGE]


@pytest.mark.parametrize(
    ("form", "parts", "kind", "itemsize"),
    [
        pytest.param(half(), LARGE, HalfWeight, 2, id="rows"),
        pytest.param(
            half(packed=True),
            LARGE,
            PackedWeight,
            2,
            id="packed",
            marks=pytest.mark.skipif(not can_pack(), reason="torch has no FBGEMM here"),
        ),
        pytest.param(
            half(bfloat16=True), LARGE, ReorderedWeight, 2, id="reordered", marks=needs_bfloat16
        ),
        pytest.param(
            half(bfloat16=True), WIDE, ReorderedWeight, 2, id="wide", marks=needs_bfloat16
        ),
        pytest.param(
            half(bfloat16=True, kernels=False), LARGE, DenseWeight, 2, id="bf16, no kernels"
        ),
        pytest.param(half(kernels=False), LARGE, DenseWeight, 2, id="plain"),
        pytest.param(compiled(), LARGE, StreamedWeight, 2, id="compiled"),
        pytest.param(compiled(), WIDE, StreamedWeight, 2, id="compiled, wide"),
        pytest.param(
            compiled(bfloat16=True), WIDE, OrderedWeight, 2, id="ordered", marks=needs_pairs
        ),
        pytest.param(compiled(output=True), WIDE, PairedWeight, 2, id="paired"),
        pytest.param(half(packed=True), WIDE, HalfWeight, 2, id="bf16"),
        pytest.param(DenseFormat(torch.float32, CPU), LARGE, FloatWeight, 4, id="f32"),
        pytest.param(
            DenseFormat(torch.float32, CPU, kernels=False), LARGE, DenseWeight, 4, id="plain f32"
        ),
        pytest.param(
            DenseFormat(torch.float32, CPU, narrow=True), LARGE, HalfWeight, 2, id="f32, narrow"
        ),
    ],
)
@pytest.mark.parametrize("rows", [0, 1, 2, 9, 40])
@pytest.mark.parametrize("piece", [dense.PIECE_ELEMENTS, 2**17])
def test_every_form_multiplies_alike(
    form: DenseFormat,
    parts: list[Tensor],
    kind: type,
    itemsize: int,
    rows: int,
    piece: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dense, "PIECE_ELEMENTS", piece)
    weight = form.make(parts)
    assert type(weight) is kind
    assert weight.shape == (1536, 512)
    stacked = torch.cat(parts).float()
    assert weight.nbytes == stacked.numel() * itemsize
    torch.testing.assert_close(weight.matrix().float(), stacked, atol=2**-24, rtol=0)
    x = torch.randn(rows, 512)
    assert weight.matmul(x).dtype == torch.float32
    assert weight.matmul(x).shape == (rows, 1536)
    similar = torch.cosine_similarity(weight.matmul(x), x @ stacked.T, dim=-1)
    assert (similar > 0.9999).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_compiled_products_read_what_is_stored(dtype: torch.dtype) -> None:
    """In 16 bits as it is, copied; float32 becomes whichever format of 16 bits holds it."""
    parts = [part.to(dtype) for part in LARGE]
    weight = compiled().make(parts)
    assert isinstance(weight, StreamedWeight)
    assert weight.tensor.dtype == (torch.float16 if dtype == torch.float32 else dtype)
    assert weight.tensor.data_ptr() != parts[0].data_ptr()
    x = torch.randn(3, 512)
    exact = x.double() @ torch.cat(parts).double().T
    assert torch.allclose(weight.matmul(x).double(), exact, atol=1e-4)
    recipe, tensors = weight.traced
    assert (recipe.taken, recipe.rows) == (1, 1536)
    found = recipe.function(*recipe.statics, x, *tensors)
    assert torch.allclose(found.double(), exact, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("count", [1536, 1500])
def test_an_output_layer_for_compiled_products(dtype: torch.dtype, count: int) -> None:
    """Any number of rows in float32, whole blocks or not; what bfloat16 does not hold streams."""
    matrix = torch.cat(LARGE)[:count].to(dtype)
    weight = compiled(output=True, bfloat16=False).make([matrix])
    assert isinstance(weight, PairedWeight)
    assert weight.shape == (count, 512)
    assert torch.equal(weight.matrix().to(dtype), matrix)
    assert torch.equal(weight.rows(70, 200).to(dtype), matrix[70:200])
    for rows in (1, 9, 40):
        x = torch.randn(rows, 512)
        y = weight.matmul(x)
        assert (y - x @ matrix.float().T).norm() / y.norm() < 1e-6
    finer = matrix.float().add(2**-12).half()
    assert isinstance(compiled(output=True).make([finer]), StreamedWeight)
    assert isinstance(compiled(output=True).make([matrix[:, :511]]), StreamedWeight)


@needs_pairs
def test_few_rows_keep_float32_where_many_are_rounded() -> None:
    """One copy serves both; what a compiler takes in is the same product."""
    weight = compiled(bfloat16=True).make(LARGE)
    assert isinstance(weight, OrderedWeight)
    assert torch.equal(weight.matrix(), torch.cat(LARGE))
    for rows, exact in ((1, True), (4, True), (5, False), (40, False)):
        x = torch.randn(rows, 512)
        y = weight.matmul(x)
        error = (y - x @ torch.cat(LARGE).float().T).norm() / y.norm()
        assert (error < 1e-6) == exact
        assert error < 2**-7
    recipe, tensors = weight.traced
    x = torch.randn(3, 512)
    y = recipe.function(*recipe.statics, x, *tensors)
    assert (recipe.taken, recipe.rows) == (1, 1536)
    assert torch.allclose(y, x @ torch.cat(LARGE).float().T, atol=1e-4)


@needs_bfloat16
def test_compiled_products_of_many_rows() -> None:
    """In bfloat16 only where that holds the matrix."""
    x = torch.randn(40, 512)
    finer = [part.float().add(2**-12).half() for part in LARGE]
    for parts, exact in ((LARGE, False), (finer, True)):
        y = compiled(bfloat16=True).make(parts).matmul(x)
        error = (y - x @ torch.cat(parts).float().T).norm() / y.norm()
        assert (error < 1e-5) == exact
        assert error < 2**-7


@needs_bfloat16
@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(
        st.tuples(st.lists(st.integers(1, 40), min_size=1, max_size=3), st.integers(1, 70)),
        min_size=2,
        max_size=4,
    ),
    dtypes=st.lists(st.sampled_from([torch.bfloat16, torch.float32]), min_size=3, max_size=3),
    strided=st.booleans(),
    piece=st.sampled_from([64, dense.PIECE_ELEMENTS]),
)
def test_matrices_reordered_one_after_the_other_keep_their_numbers(
    sizes: list[tuple[list[int], int]], dtypes: list[torch.dtype], strided: bool, piece: int
) -> None:
    """They pass through the same memory: any sizes, formats and strides, stacked or alone."""
    form = half(bfloat16=True)
    stacks = [
        [matrix(rows, columns).bfloat16().to(dtype)
         for rows, dtype in zip(several, dtypes, strict=False)]
        for several, columns in sizes
    ]  # fmt: skip
    if strided:
        stacks = [[part.T.contiguous().T for part in parts] for parts in stacks]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(dense, "PIECE_ELEMENTS", piece)
        made = [form.reordered(parts) for parts in stacks]
    assert len(form.workspace.free) <= 1
    for weight, parts in zip(made, stacks, strict=True):
        assert torch.equal(weight.matrix(), torch.cat([part.bfloat16() for part in parts]))


def test_pieces_are_cut_at_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense, "PIECE_ELEMENTS", 512 * 400)
    pieces = in_pieces(LARGE)
    assert [[len(part) for part in piece] for piece in pieces] == [
        [400],
        [400],
        [230],
        [400],
        [106],
    ]
    assert torch.equal(torch.cat([part for piece in pieces for part in piece]), torch.cat(LARGE))


def test_small_matrices_lose_nothing() -> None:
    weight = half(packed=True).make([LARGE[0][:64]])
    assert type(weight) is FloatWeight
    assert weight.tensor.dtype == torch.float32
    x = torch.randn(1, 512)
    torch.testing.assert_close(weight.matmul(x), x @ LARGE[0][:64].float().T)


@pytest.mark.parametrize(
    ("values", "fits"),
    [
        (matrix(8, 8).bfloat16(), True),
        (matrix(8, 8).half(), True),
        (torch.full((4, 4), 1e5).bfloat16(), False),
        (torch.full((4, 4), 3e4).bfloat16(), False),
        (torch.full((4, 4), 1e4).bfloat16(), True),
        (torch.full((4, 4), -1e5).bfloat16(), False),
        (torch.full((4, 4), 1e-6).bfloat16(), False),
        (torch.full((4, 4), float("inf")).bfloat16(), False),
        (torch.full((4, 4), float("nan")).bfloat16(), False),
    ],
    ids=["small", "half", "large", "sum", "below", "negative", "tiny", "inf", "nan"],
)
def test_float16_only_where_it_holds_the_values(values: Tensor, fits: bool) -> None:
    assert fits_float16(values) is fits


@pytest.mark.parametrize("scale", [0.02, 1e-6, 1.0])
def test_bfloat16_holds_what_was_stored_in_it(scale: float) -> None:
    """Also by way of float16, whose smallest numbers have fewer bits than bfloat16's."""
    values = matrix(512, 1024, scale)
    narrow = values.bfloat16()
    assert fits_bfloat16(narrow) and fits_bfloat16(narrow.float()) and fits_bfloat16(narrow.half())
    assert not fits_bfloat16(values) and not fits_bfloat16(values.mul(1000 / scale).half())
    narrow[511, 1023] = torch.nan
    assert not fits_bfloat16(narrow.half())


@needs_bfloat16
def test_finer_float16_is_not_rounded() -> None:
    parts = [part.float().add(2.0**-11).half() for part in LARGE]
    assert not fits_bfloat16(parts[0])
    assert type(half(bfloat16=True).make(parts)) is not ReorderedWeight
    exact = [part.half() for part in LARGE]
    assert type(half(bfloat16=True).make(exact)) is ReorderedWeight


def test_what_float16_does_not_hold_stays_bfloat16() -> None:
    weight = DenseFormat(torch.float16, CPU).make(WIDE)
    assert type(weight) is HalfWeight
    assert weight.tensor.dtype == torch.bfloat16


def test_a_table_stays_in_its_file() -> None:
    values = matrix(8, 8).bfloat16()
    assert DenseFormat(torch.float32, CPU).table(values) is values


def test_one_matrix_that_fits_is_shared_not_copied() -> None:
    values = matrix(8, 8)
    weight = DenseFormat(torch.float32, CPU).make([values])
    assert type(weight) is FloatWeight
    assert weight.tensor.data_ptr() == values.data_ptr()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows", [1, 7])
def test_a_narrow_matrix_rounds_nothing(rows: int, dtype: torch.dtype) -> None:
    """Whole numbers, whose products are exact in float32 and not in 16 bits."""
    form = DenseFormat(torch.float32, CPU, narrow=True)
    generator = torch.Generator().manual_seed(1)
    weight = torch.randint(-100, 101, (1030, 512), generator=generator).to(dtype)
    x = torch.randint(-300, 301, (rows, 512), generator=generator).float()
    assert torch.equal(form.make([weight]).matmul(x), x @ weight.float().T)


def test_what_is_not_kept_narrow() -> None:
    form = DenseFormat(torch.float32, CPU, narrow=True)
    mixed = [LARGE[0], LARGE[1].half()]
    small = [LARGE[0][:40]]
    wide = [part.float() for part in LARGE]
    for parts in (mixed, small, wide):
        assert form.make(parts).nbytes == 4 * sum(part.numel() for part in parts)
    plain = DenseFormat(torch.float32, CPU, narrow=True, kernels=False)
    assert type(plain.make(LARGE)) is DenseWeight


def test_a_table_is_kept_as_narrow_as_it_is_stored() -> None:
    """Told by tensors without values, as there may be no GPU."""
    device = torch.device("meta")
    table = torch.empty((6, 4), dtype=torch.bfloat16)
    for dtype, stored, kept in (
        (torch.float32, torch.bfloat16, torch.bfloat16),
        (torch.bfloat16, torch.float32, torch.bfloat16),
        (torch.float16, torch.bfloat16, torch.float16),
    ):
        assert DenseFormat(dtype, device).table(table.to(stored)).dtype is kept
