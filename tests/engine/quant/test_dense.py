"""Which form a plain matrix is kept in, and that every form multiplies alike."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from helexa.engine.quant.dense import (
    DenseFormat,
    DenseWeight,
    HalfWeight,
    PanelWeight,
    fits_float16,
)

CPU = torch.device("cpu")


def matrix(rows: int, columns: int, scale: float = 0.1) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows)) * scale


def auto(*, panels: bool = False, kernels: bool = True) -> DenseFormat:
    return DenseFormat(torch.bfloat16, CPU, prefer_float16=True, panels=panels, kernels=kernels)


LARGE = [matrix(1024, 512).bfloat16(), matrix(512, 512).bfloat16()]


@pytest.mark.parametrize(
    ("form", "kind"),
    [
        (auto(), HalfWeight),
        (auto(panels=True), PanelWeight),
        (auto(kernels=False), DenseWeight),
        (DenseFormat(torch.bfloat16, CPU), HalfWeight),
        (DenseFormat(torch.float32, CPU), DenseWeight),
    ],
    ids=["rows", "panels", "plain", "bf16", "f32"],
)
@pytest.mark.parametrize("rows", [0, 1, 2, 9])
def test_every_form_multiplies_alike(form: DenseFormat, kind: type, rows: int) -> None:
    weight = form.make(LARGE)
    assert type(weight) is kind
    assert weight.shape == (1536, 512)
    stacked = torch.cat(LARGE).float()
    assert weight.nbytes == stacked.numel() * weight.tensor.itemsize
    torch.testing.assert_close(weight.matrix().float(), stacked, atol=2**-24, rtol=0)
    ids = torch.tensor([5, 1100, 5])
    assert torch.equal(weight.rows(ids), weight.matrix()[ids])
    x = torch.randn(rows, 512)
    assert weight.matmul(x).dtype == torch.float32
    assert weight.matmul(x).shape == (rows, 1536)
    similar = torch.cosine_similarity(weight.matmul(x), x @ stacked.T, dim=-1)
    assert (similar > 0.9999).all()


def test_small_matrices_lose_nothing() -> None:
    weight = auto(panels=True).make([LARGE[0][:64]])
    assert weight.tensor.dtype == torch.float32
    x = torch.randn(1, 512)
    torch.testing.assert_close(weight.matmul(x), x @ LARGE[0][:64].float().T)


def test_ragged_matrices_stay_rows() -> None:
    weight = auto(panels=True).make([matrix(1030, 1024).bfloat16()])
    assert type(weight) is HalfWeight


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
    form = auto(kernels=False).make([values])
    assert form.tensor.dtype == (torch.float16 if fits else torch.bfloat16)


def test_one_matrix_that_fits_is_shared_not_copied() -> None:
    values = matrix(8, 8)
    assert DenseFormat(torch.float32, CPU).make([values]).tensor.data_ptr() == values.data_ptr()
