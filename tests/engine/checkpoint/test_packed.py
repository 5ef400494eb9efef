"""Packed matrices of integers as `helexa inspect` tells of them, against those that are loaded."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.shapes import make_checkpoint
from helexa.cli.fit import Place, need
from helexa.cli.main import cli
from helexa.engine.checkpoint.summary import inspect_checkpoint
from helexa.engine.kernels.int4_groups import block_rows
from helexa.engine.layers.linear import Linear
from helexa.engine.loading import load_model
from tests.engine.quant.cases import ordered
from tools.quantised import AWQ, GPTQ, Case, awq, compressed, convert, gptq, packed

WIDE = {"group_size": 128}
PACK = partial(compressed, "pack-quantized", strategy="group", group_size=128)
FORMATS: dict[str, tuple[Case, str]] = {
    "gptq-2": (Case({**GPTQ, **WIDE, "bits": 2}, partial(gptq, bits=2, group=128)), "gptq 2 g128"),
    "gptq-3": (Case({**GPTQ, **WIDE, "bits": 3}, partial(gptq, bits=3, group=128)), "gptq 3 g128"),
    "gptq-4": (Case({**GPTQ, **WIDE}, partial(gptq, group=128)), "gptq 4 g128"),
    "gptq-8": (Case({**GPTQ, **WIDE, "bits": 8}, partial(gptq, bits=8, group=128)), "gptq 8 g128"),
    "gptq-order": (Case({**GPTQ, "group_size": 32, "desc_act": True}, ordered(gptq)), "gptq 4 g32"),
    "gptq-row": (Case({**GPTQ, "group_size": -1}, partial(gptq, group=-1)), "gptq 4"),
    "awq": (Case({**AWQ, **WIDE}, partial(awq, group=128)), "awq 4 g128"),
    "int4": (Case(PACK(num_bits=4), partial(packed, group=128)), "int4 g128"),
    "int3": (
        Case(PACK(num_bits=3, symmetric=False), partial(packed, bits=3, group=128, sym=False)),
        "int3 g128",
    ),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("small", tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("name", FORMATS)
def test_what_loading_holds_is_counted(name: str, dtype: str, plain: Path, tmp_path: Path) -> None:
    convert(plain, tmp_path, FORMATS[name][0])
    summary = inspect_checkpoint(tmp_path)
    assert summary.config is not None
    model = load_model(tmp_path, dtype=dtype, device="cpu", disabled=())
    assert model.embed.nbytes == 2 * summary.narrow_parameters
    held = sum(m.weight.nbytes for m in model.layers.modules() if isinstance(m, Linear))
    tables = summary.table_bytes if dtype == "bfloat16" and block_rows() else 0
    counted = summary.quantised_bytes + tables
    assert held <= counted <= 1.02 * held  # an order of inputs is counted for each matrix


def test_where_there_is_no_table_less_is_needed(plain: Path, tmp_path: Path) -> None:
    convert(plain, tmp_path, FORMATS["gptq-4"][0])
    summary = inspect_checkpoint(tmp_path)
    assert summary.config is not None
    assert summary.table_bytes > 0
    where = [Place(device, device, 2**30, 2**28) for device in ("cpu", "cuda:0")]
    halves, exact = (
        need(summary.config, summary, dtype, where) for dtype in ("float16", "float32")
    )
    numbers = summary.parameters - summary.quantised_parameters
    assert halves.weight_bytes == summary.quantised_bytes + 2 * numbers + summary.table_bytes
    assert summary.narrow_parameters == 8192 * 256  # the embedding
    kept = summary.quantised_bytes - 2 * summary.narrow_parameters
    assert exact.weight_bytes == kept + 4 * numbers


@pytest.mark.parametrize("name", FORMATS)
def test_matrices_are_shown_as_what_they_mean(name: str, plain: Path, tmp_path: Path) -> None:
    case, label = FORMATS[name]
    convert(plain, tmp_path, case)
    done = CliRunner().invoke(cli, ["inspect", str(tmp_path), "--json"])
    found = json.loads(done.stdout)
    groups = {group["name"]: group for group in found["tensors"]}
    up = groups["model.layers.*.mlp.up_proj.weight"]
    assert (up["shape"], up["dtype"], up["count"]) == ([768, 256], label, 4)
    assert not [at for at in groups if at.endswith(("qweight", "scales", "g_idx", "_packed"))]
    bits = int("".join(filter(str.isdigit, label.split(" g")[0])))
    assert bits < up["bits_per_weight"] < bits + 2
    files = list(tmp_path.glob("*.safetensors"))
    assert sum(group["bytes"] for group in groups.values()) == found["weight_bytes"]
    assert found["weight_bytes"] < sum(file.stat().st_size for file in files)
    assert label in found["stored_dtypes"]
    printed = CliRunner().invoke(cli, ["inspect", str(tmp_path)]).stdout
    assert f"{label} " in printed
    assert "768 × 256" in printed
    assert "I32" not in printed
    assert "half a million" not in printed  # of those that are packed it is not true
