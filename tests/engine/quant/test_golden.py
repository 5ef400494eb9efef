"""What the formats' own libraries wrote means to us what it means to them (see tests/data)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from helexa.engine.loading import resolve_numerics
from helexa.engine.quant.stored import load_matrix
from tests.engine.quant.cases import place

FILE = Path(__file__).parents[2] / "data" / "quantised_by_their_writers.safetensors"
CASES = (
    *("gptq_2", "gptq_3", "gptq_4", "gptq_4_order", "gptq_8", "awq"),
    *("ct_int3", "ct_int4_group", "ct_int4_zeros", "ct_int8_row", "ct_w8a8"),
    *("ct_fp8_row", "ct_fp8_tensor", "ct_fp8_block"),
)
NUMERICS = resolve_numerics("float32", torch.device("cpu"), False)


@pytest.mark.parametrize("case", CASES)
def test_a_matrix_is_what_its_writer_says(case: str, tmp_path: Path) -> None:
    tensors: dict[str, Tensor] = {}
    with safe_open(FILE, "pt") as file:
        config = json.loads(file.metadata()[case])
        for name in file.keys():  # noqa: SIM118 - it is no mapping
            if name.startswith(f"{case}."):
                tensors[name.removeprefix(f"{case}.")] = file.get_tensor(name)
    meant = tensors.pop("meant")
    rows = 40 if case.startswith("ct") else 32
    root = place(tmp_path, config, layer=tensors)
    matrix = load_matrix([root / "layer"], (rows,), 64, NUMERICS).matrix()
    root.finish()
    assert torch.equal(matrix[::10], meant)
    assert matrix.abs().max() > 0.01


def test_every_case_of_the_file_is_read() -> None:
    with safe_open(FILE, "pt") as file:
        assert set(file.metadata()) == set(CASES)
