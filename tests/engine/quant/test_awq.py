"""AWQ: the order of eight outputs in a word, worked out by hand, and places that are plain."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from helexa.engine.loading import resolve_numerics
from helexa.engine.quant.stack import StackedWeight
from helexa.engine.quant.stored import load_matrix
from helexa.errors import CheckpointError
from tests.engine.quant.cases import place
from tools.quantised import AWQ, awq

EXACT = resolve_numerics("float32", torch.device("cpu"), False)


def test_by_hand(tmp_path: Path) -> None:
    """Of one input eight outputs: 0x75316420 holds 0, 2, 4, 6, 1, 3, 5, 7 from its low end."""
    tensors = {
        "qweight": torch.tensor([[0x75316420]], dtype=torch.int32),
        "qzeros": torch.tensor([[0x11111111]], dtype=torch.int32),
        "scales": torch.tensor([[0.5] * 8], dtype=torch.float16),
    }
    root = place(tmp_path, {**AWQ, "group_size": 1}, m=tensors)
    matrix = load_matrix([root / "m"], (8,), 1, EXACT).matrix()
    assert matrix.T.tolist() == [[0.5 * (n - 1) for n in range(8)]]


def test_what_is_stored_plainly_stays_plain(tmp_path: Path) -> None:
    matrices = torch.randn(3, 64, 64)
    tensors, meant = awq(matrices[0])
    plain = {"weight": matrices[1]}
    root = place(tmp_path, AWQ, a=tensors, b=plain, c=awq(matrices[2])[0])
    weight = load_matrix([root / "a", root / "b", root / "c"], (64, 64, 64), 64, EXACT)
    root.finish()
    assert isinstance(weight, StackedWeight)
    assert torch.equal(weight.matrix()[:64], meant)
    assert torch.equal(weight.matrix()[64:128], matrices[1])


def test_a_layout_of_another_version_does_not_fit(tmp_path: Path) -> None:
    tensors, _ = awq(torch.randn(64, 64))
    root = place(tmp_path, AWQ, m={**tensors, "qweight": tensors["qweight"].T.contiguous()})
    with pytest.raises(CheckpointError, match=r"'m.qweight'.* shape \[8, 64\]"):
        load_matrix([root / "m"], (64,), 64, EXACT)
