"""Memory on loan: one matrix for one borrower, and none kept when all is loaded."""

from __future__ import annotations

import pytest
import torch

from helexa.engine.loading import load_model
from helexa.engine.quant.dense import DenseFormat
from helexa.engine.quant.workspace import Workspace

CPU = torch.device("cpu")


def test_loans_at_the_same_time_do_not_share() -> None:
    workspace = Workspace()
    with workspace.matrix(4, 8) as one, workspace.matrix(4, 8) as other:
        one.fill_(1.0)
        other.fill_(2.0)
        assert torch.equal(one, torch.ones(4, 8))
    assert len(workspace.free) == 2


def test_a_loan_leaves_its_memory_to_the_next() -> None:
    workspace = Workspace()
    with workspace.matrix(64, 128) as first:
        place = first.data_ptr()
    with workspace.matrix(32, 16) as second:
        assert second.data_ptr() == place
        assert second.shape == (32, 16)
        assert second.dtype == torch.float32
    with workspace.matrix(128, 128) as larger:
        assert larger.numel() == 128 * 128
        larger.fill_(3.0)
    assert len(workspace.free) == 1
    workspace.clear()
    assert not workspace.free


def test_an_error_ends_a_loan() -> None:
    workspace = Workspace()
    with pytest.raises(ValueError, match="odd"), workspace.matrix(2, 2):
        raise ValueError("odd")
    assert len(workspace.free) == 1


def test_matrices_packed_one_after_the_other_keep_their_numbers() -> None:
    form = DenseFormat(torch.float16, CPU)
    noise = torch.Generator().manual_seed(0)
    matrices = [torch.randn(rows, 512, generator=noise).half() for rows in (2048, 1100, 1536)]
    made = [form.make([matrix]) for matrix in matrices]
    for weight, matrix in zip(made, matrices, strict=True):
        assert torch.equal(weight.matrix().float(), matrix.float())


def test_a_loaded_model_has_given_its_memory_back() -> None:
    assert not load_model("tiny", device="cpu").numerics.plain.workspace.free
