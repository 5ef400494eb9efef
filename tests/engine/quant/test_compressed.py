"""compressed-tensors: modules with schemes of their own, and what is wrong with a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from helexa.engine.loading import resolve_numerics
from helexa.engine.quant.stored import load_matrix
from helexa.errors import CheckpointError
from tests.engine.quant.cases import place
from tools.quantised import compressed, int8, packed

EXACT = resolve_numerics("float32", torch.device("cpu"), False)
INT4 = {"num_bits": 4, "strategy": "group", "group_size": 32}


def test_modules_with_schemes_of_their_own(tmp_path: Path) -> None:
    config = compressed("pack-quantized", **INT4)
    config["config_groups"]["eight"] = {
        "targets": ["re:v.*"],
        "weights": {"num_bits": 8, "strategy": "channel", "symmetric": False},
    }
    config["ignore"] = ["k"]
    matrices = torch.randn(3, 64, 64)
    q, meant_q = packed(matrices[0])
    v, meant_v = packed(matrices[2], bits=8, group=-1, sym=False)
    root = place(tmp_path, config, q=q, k={"weight": matrices[1]}, v=v)
    weight = load_matrix([root / name for name in "qkv"], (64, 64, 64), 64, EXACT)
    root.finish()
    assert torch.equal(weight.matrix(), torch.cat((meant_q, matrices[1], meant_v)))


def test_activations_stay_as_they_are(tmp_path: Path) -> None:
    config = compressed("int-quantized", strategy="channel")
    config["config_groups"]["group_0"]["input_activations"] = {"num_bits": 8, "dynamic": False}
    tensors, meant = int8(torch.randn(64, 64))
    root = place(tmp_path, config, m={**tensors, "input_scale": torch.ones(1)})
    weight = load_matrix([root / "m"], (64,), 64, EXACT)
    root.finish()
    assert torch.equal(weight.matrix(), meant)


def test_an_index_that_says_nothing_is_read_over(tmp_path: Path) -> None:
    tensors, meant = packed(torch.randn(64, 64))
    unset = torch.full((64,), -1, dtype=torch.int32)
    root = place(
        tmp_path, compressed("pack-quantized", **INT4), m={**tensors, "weight_g_idx": unset}
    )
    assert torch.equal(load_matrix([root / "m"], (64,), 64, EXACT).matrix(), meant)
    root.finish()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"weight_shape": torch.tensor([64, 60])}, r"'m.weight_shape' is not \[64, 64\]"),
        ({"weight_scale": None}, "tensor 'm.weight_scale' is missing"),
        ({"weight_packed": torch.zeros(64, 9, dtype=torch.int32)}, r"'m.weight_packed'.* shape"),
        ({"weight_zero_point": torch.zeros(9, dtype=torch.int8)}, r"'m.weight_zero_point'.* shape"),
    ],
)
def test_damage_is_told(wrong: dict[str, Any], message: str, tmp_path: Path) -> None:
    tensors, _ = packed(torch.randn(64, 64), sym=False)
    given = {name: t for name, t in {**tensors, **wrong}.items() if t is not None}
    root = place(tmp_path, compressed("pack-quantized", **INT4, symmetric=False), m=given)
    with pytest.raises(CheckpointError, match=message):
        load_matrix([root / "m"], (64,), 64, EXACT)


def test_a_module_that_no_scheme_has_is_told(tmp_path: Path) -> None:
    config = {**compressed("pack-quantized", **INT4), "ignore": ["m"]}
    root = place(tmp_path, config, m=packed(torch.randn(64, 64))[0])
    with pytest.raises(CheckpointError, match="'m' is stored quantised, but no group"):
        load_matrix([root / "m"], (64,), 64, EXACT)


def test_blocks_of_integers_are_told(tmp_path: Path) -> None:
    config = compressed("int-quantized", strategy="block", block_structure=[32, 32])
    root = place(tmp_path, config, m=int8(torch.randn(64, 64))[0])
    with pytest.raises(CheckpointError, match="'m' has blocks of integers"):
        load_matrix([root / "m"], (64,), 64, EXACT)
