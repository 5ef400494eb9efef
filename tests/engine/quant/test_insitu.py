"""Plain checkpoints quantised at load: what is, what is not, and that the model still works."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from helexa.engine.build import build_core
from helexa.engine.config import EngineConfig
from helexa.engine.kernels.bags import can_bag
from helexa.engine.kernels.int4_groups import block_rows
from helexa.engine.layers.linear import Linear
from helexa.engine.loading import load_model
from helexa.engine.models.model import Model
from helexa.engine.quant.blocks.types import BLOCK_TYPES
from helexa.engine.quant.blocks.weight import BlockWeight
from helexa.engine.quant.dense import DenseFormat, DenseWeight
from helexa.engine.quant.insitu import linear_format
from helexa.errors import PreflightError
from tests.engine.models.families import Family, cosine, prompt

MIB = 2**20
OFF = ["quant_kernels"]
DIVERGENCE = {
    "bf16": 1e-5,
    "q8_0": 1e-3,
    "q6_k": 0.015,
    "q5_k": 0.03,
    "q5_0": 0.03,
    "q4_k_m": 0.12,
    "q4_0": 0.25,
}
"""Of `tiny` from its unquantised self, in nats per token at most; twice what was measured."""


@pytest.fixture(scope="module")
def exact() -> Tensor:
    return load_model("tiny", device="cpu", dtype="float32").compute_logits(prompt(200, 900))


@pytest.mark.parametrize("disabled", [[], OFF], ids=["fast", "plain"])
@pytest.mark.parametrize("quant", DIVERGENCE)
def test_tiny_stays_itself(quant: str, disabled: list[str], exact: Tensor) -> None:
    model = load_model("tiny", device="cpu", quant=quant, disabled=disabled)
    logits = model.compute_logits(prompt(200, 900))
    p = exact.log_softmax(-1)
    divergence = (p.exp() * (p - logits.log_softmax(-1))).sum(-1).mean()
    assert divergence <= DIVERGENCE[quant]


def linears(model: Model) -> list[Linear]:
    return [module for module in model.modules() if isinstance(module, Linear)]


@pytest.mark.parametrize("quant", ["q8_0", "q4_k"])
def test_e035_only_linear_layers_change(quant: str) -> None:
    plain = load_model("tiny", device="cpu", dtype="float32")
    model = load_model("tiny", device="cpu", dtype="float32", quant=quant)
    assert model.head is None  # tied
    assert torch.equal(model.embed.table, plain.embed.table)
    assert isinstance(model.embed.weight, DenseWeight)
    buffers = dict(model.named_buffers())
    assert all(torch.equal(b, buffers[name]) for name, b in plain.named_buffers())
    type = BLOCK_TYPES[quant.upper()]
    for found, before in zip(linears(model), linears(plain), strict=True):
        expected = type.matrix(type.rows(before.weight.matrix().float()))
        assert torch.allclose(found.weight.matrix(), expected, atol=1e-6)


def test_an_untied_output_layer_is_quantised(tmp_path: Path) -> None:
    Family("untied", fields={"hidden_size": 256, "num_hidden_layers": 1}).save(tmp_path)
    model = load_model(tmp_path, device="cpu", quant="q8_0", disabled=OFF)
    assert model.head is not None
    assert isinstance(model.head.weight, BlockWeight)


@pytest.mark.parametrize(
    ("hidden", "quant", "names", "told"),
    [
        (96, "q4k", {"Q4_0", "Q4_K"}, "5 matrices .* 5 are Q4_0"),
        (96, "q6k", {"Q8_0", "Q6_K"}, "5 matrices .* 5 are Q8_0"),
        (40, "q5k", {"Q5_K", None}, "5 matrices .* 5 are plain"),
        (40, "q8_0", {"Q8_0", None}, "5 matrices .* 5 are plain"),
    ],
)
def test_e034_rows_that_are_no_whole_blocks(
    hidden: int, quant: str, names: set[str | None], told: str, tmp_path: Path
) -> None:
    """q|k|v, gate|up and the output layer have ``hidden`` columns, out and down 256."""
    shape = {"intermediate_size": 256, "head_dim": 64, "num_hidden_layers": 2}
    fields = {"hidden_size": hidden, **shape}
    reference = Family("odd", fields=fields).save(tmp_path)
    with pytest.warns(UserWarning, match=told):
        model = load_model(tmp_path, device="cpu", dtype="float32", quant=quant, disabled=OFF)
    weights = [linear.weight for linear in linears(model)]
    found = {w.type.name if isinstance(w, BlockWeight) else None for w in weights}
    assert found == names
    assert cosine(model.compute_logits(prompt(9)), reference.logits(prompt(9))) > 0.95


def test_a_name_that_stands_for_another_format_warns() -> None:
    with pytest.warns(UserWarning, match="q2k; they get Q4_K"):
        load_model("tiny", device="cpu", quant="q2k")


@pytest.mark.parametrize("rows", [4, 4096], ids=["small", "large"])
def test_plain_formats_give_weights_their_own_numbers(rows: int) -> None:
    """Also where a CPU keeps a small matrix in float32, and a large one in float16."""
    plain = DenseFormat(torch.float32, torch.device("cpu"))
    matrix = torch.randn(rows, 256, generator=torch.Generator().manual_seed(3)) + 3
    for quant, dtype in (("bf16", torch.bfloat16), ("f16", torch.float16)):
        found = linear_format(quant, plain).make([matrix]).matrix().float()
        assert (found - matrix.to(dtype).float()).abs().max() <= 2.0**-24
        assert not torch.equal(found, matrix)
    matrix[0, 0] = 1e5  # more than float16 holds: bfloat16, or as it is
    found = linear_format("f16", plain).make([matrix]).matrix().float()
    assert torch.allclose(found, matrix, rtol=2.0**-8)


def test_an_unknown_name_fails_before_any_weight_is_read(tmp_path: Path) -> None:
    Family("damaged").save(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, path)
    for load in (
        lambda: load_model(tmp_path, device="cpu", quant="q7"),
        lambda: build_core(tmp_path, EngineConfig(device="cpu", quant="q7")),
    ):
        with pytest.raises(PreflightError) as caught:
            load()
        assert caught.value.kind == "quant_not_found"


SCRIPT = """
import sys
from helexa.engine.loading import load_model

def memory_bytes(field):
    with open("/proc/self/status") as status:
        (line,) = (line for line in status if line.startswith(field))
    return int(line.split()[1]) * 1024

load_model("tiny", device="cpu", quant=sys.argv[2])  # whatever is imported late
before = memory_bytes("VmRSS")
model = load_model(sys.argv[1], device="cpu", quant=sys.argv[2])
print(memory_bytes("VmHWM") - before, model.nbytes)
"""
LARGE = {
    "vocab_size": 2048,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 128,
}


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 250 MiB in bfloat16, in shards of a layer or so."""
    family = Family("large", fields=LARGE, shards=12, dtype=torch.bfloat16)
    return family.save(tmp_path_factory.mktemp("large")).folder


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.skipif(not (block_rows() and can_bag()), reason="torch lacks the operators here")
@pytest.mark.parametrize(("quant", "bits"), [("q8_0", 8.6), ("q4_k", 5.0)])
def test_loading_takes_the_quantised_weights_and_at_most_one_shard(
    large: Path, quant: str, bits: float
) -> None:
    files = [path.stat().st_size for path in large.glob("*.safetensors")]
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(large), quant],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    rise, weights = map(int, run.stdout.split())
    assert weights <= 1.02 * bits / 16 * sum(files) + 8 * MIB  # the embeddings stay 16 bit
    assert rise <= 1.15 * weights + max(files)
