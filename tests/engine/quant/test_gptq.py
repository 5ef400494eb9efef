"""GPTQ: a matrix worked out by hand, the two versions, and what is wrong with a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from helexa.engine.loading import resolve_numerics
from helexa.engine.quant.stored import load_matrix
from helexa.errors import CheckpointError
from tests.engine.quant.cases import place
from tools.quantised import GPTQ, gptq

EXACT = resolve_numerics("float32", torch.device("cpu"), False)


@pytest.mark.parametrize(("version", "zero"), [("gptq", 4), ("gptq_v2", 3)])
def test_by_hand(version: str, zero: int, tmp_path: Path) -> None:
    """Eight inputs of eight outputs: output n has codes n, n + 1 … and the stored zero point 3."""
    words = [sum((n + k) % 16 << 4 * k for k in range(8)) for n in range(8)]
    signed = [word - 2**32 if word >= 2**31 else word for word in words]
    tensors = {
        "qweight": torch.tensor([signed], dtype=torch.int32),
        "qzeros": torch.tensor([[0x33333333]], dtype=torch.int32),
        "scales": torch.tensor([[0.5] * 8], dtype=torch.float16),
    }
    config = {**GPTQ, "group_size": 8, "checkpoint_format": version}
    root = place(tmp_path, config, m=tensors)
    matrix = load_matrix([root / "m"], (8,), 8, EXACT).matrix()
    expected = [[0.5 * ((n + k) % 16 - zero) for k in range(8)] for n in range(8)]
    assert matrix.tolist() == expected


def test_a_zero_point_of_sixteen_does_not_wrap(tmp_path: Path) -> None:
    tensors, meant = gptq(torch.randn(32, 32))
    tensors["qzeros"] = torch.full_like(tensors["qzeros"], -1)  # 15 each, so 16
    root = place(tmp_path, GPTQ, m=tensors)
    matrix = load_matrix([root / "m"], (32,), 32, EXACT).matrix()
    assert (matrix <= 0).all()
    assert matrix.shape == meant.shape


def test_a_bias_of_zeros_that_the_model_lacks_is_read_over(tmp_path: Path) -> None:
    tensors, _ = gptq(torch.randn(32, 32))
    root = place(tmp_path / "zero", GPTQ, m={**tensors, "bias": torch.zeros(32)})
    load_matrix([root / "m"], (32,), 32, EXACT)
    root.finish()
    root = place(tmp_path / "one", GPTQ, m={**tensors, "bias": torch.ones(32)})
    load_matrix([root / "m"], (32,), 32, EXACT)
    with pytest.raises(CheckpointError, match=r"does not use: m\.bias"):
        root.finish()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"qzeros": None}, r"tensor 'm.qzeros' is missing"),
        ({"scales": torch.ones(2, 32)}, r"'m.scales'.* shape \[2, 32\], its config asks for"),
        ({"qweight": torch.zeros(8, 32, dtype=torch.int32)}, r"'m.qweight'.* shape \[8, 32\]"),
        ({"g_idx": torch.zeros(31, dtype=torch.int32)}, r"'m.g_idx'.* shape \[31\]"),
        ({"g_idx": torch.full((32,), 9, dtype=torch.int32)}, "m.g_idx: a group index is outside"),
        ({"scales": torch.ones(1, 32, dtype=torch.int32)}, "'m.scales'.* has dtype I32"),
    ],
)
def test_damage_is_told(wrong: dict[str, Any], message: str, tmp_path: Path) -> None:
    tensors, _ = gptq(torch.randn(32, 32))
    given = {name: t for name, t in {**tensors, **wrong}.items() if t is not None}
    root = place(tmp_path, GPTQ, m=given)
    with pytest.raises(CheckpointError, match=message):
        load_matrix([root / "m"], (32,), 32, EXACT)
