"""A layer of experts against its reference and against the formula written out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import Qwen3MoeConfig, Qwen3NextConfig
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock
from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextSparseMoeBlock

from helexa.engine.checkpoint.safetensors import SafetensorsFolder
from helexa.engine.checkpoint.weights import Weights
from helexa.engine.config import ModelConfig
from helexa.engine.kernels.experts import experts_definition, experts_grouped
from helexa.engine.layers.experts import Experts
from helexa.engine.layers.moe import MoE
from helexa.engine.loading import load_model, resolve_numerics
from helexa.engine.quant.dense import FloatWeight
from helexa.engine.quant.dense_stack import DenseStack
from helexa.engine.quant.insitu import linear_format
from helexa.errors import CheckpointError
from tests.engine.models.families import Family, prompt, save_stacked, worst

HIDDEN = 24
SIZES = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 10}


class Folder(SafetensorsFolder):
    """A checkpoint of nothing but tensors."""

    id, tied = "some/model", False

    def names(self) -> list[str]:
        return list(self.table)


def config(**changes: Any) -> ModelConfig:
    fields = {
        "model_type": "qwen3_moe",
        "vocab_size": 10,
        "hidden_size": HIDDEN,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
        **SIZES,
    }
    return ModelConfig.from_dict(fields | changes, "some/model")


def load(folder: Path, tensors: dict[str, Tensor], *disabled: str, **changes: Any) -> MoE:
    """The layer, filled from a file of these tensors, which must all be used."""
    save_file(
        {name: t.detach().contiguous() for name, t in tensors.items()}, folder / "model.safetensors"
    )
    device = torch.device("cpu")
    numerics = resolve_numerics("float32", device, False, disabled)
    layer = MoE(config(**changes), numerics)
    checkpoint: Any = Folder(folder)
    weights = Weights(checkpoint, dtype=torch.float32)
    layer.load(weights)
    weights.finish()
    return layer


def block() -> Any:
    """The reference's layer."""
    return Qwen3MoeSparseMoeBlock(Qwen3MoeConfig(hidden_size=HIDDEN, **SIZES))


def draw(layer: torch.nn.Module) -> dict[str, Tensor]:
    """The layer's own tensors, filled at random."""
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(0, 0.3, generator=generator)
    return layer.state_dict()


def rows(count: int) -> Tensor:
    """Activations whose first number is always 10."""
    x = torch.randn(count, HIDDEN, generator=torch.Generator().manual_seed(count))
    x[:, 0] = 10
    return x


def as_drawn(router: Tensor) -> None:
    """Nothing special."""


def all_tied(router: Tensor) -> None:
    router.zero_()


def pairs_tied(router: Tensor) -> None:
    router[1::2] = router[::2]


def nearly_tied(router: Tensor) -> None:
    router.mul_(1e-6)


def one_starves(router: Tensor) -> None:
    router[5, 0] = -100


def one_has_all(router: Tensor) -> None:
    router[3, 0] = 100


ROUTERS = [as_drawn, all_tied, pairs_tied, nearly_tied, one_starves, one_has_all]


@pytest.mark.parametrize("disabled", [(), ("moe_fused",)], ids=["fused", "plain"])
@pytest.mark.parametrize("count", [1, 2, 37])
@pytest.mark.parametrize("change", ROUTERS, ids=lambda change: change.__name__)
def test_any_router_chooses_as_the_reference(
    change: Any, count: int, disabled: tuple[str, ...], tmp_path: Path
) -> None:
    reference = block()
    tensors = draw(reference)
    change(tensors["gate.weight"])
    layer, x = load(tmp_path, tensors, *disabled), rows(count)
    _, shares, chosen = reference.gate(x)
    ours = layer.route(x)
    assert torch.equal(ours[0], chosen)
    assert worst(ours[1], shares) < 1e-6
    assert worst(layer(x), reference(x[None])[0].detach()) < 1e-5
    if change is one_starves:
        assert not (chosen == 5).any()
    if change is one_has_all:
        assert (chosen == 3).any(1).all()


def gated(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    return down @ (F.silu(gate @ x) * (up @ x))


@pytest.mark.parametrize("disabled", [(), ("moe_fused",)], ids=["fused", "plain"])
def test_E009_six_experts_two_chosen_and_a_shared_one(
    disabled: tuple[str, ...], tmp_path: Path
) -> None:
    """Against the reference, and token by token against the formula."""
    shared = {"shared_expert_intermediate_size": 14, "norm_topk_prob": True}
    reference = Qwen3NextSparseMoeBlock(Qwen3NextConfig(hidden_size=HIDDEN, **SIZES, **shared))
    t = draw(reference)
    layer, x = load(tmp_path, t, *disabled, **shared), rows(9)
    ours = layer(x)
    assert worst(ours, reference(x[None])[0].detach()) < 1e-4
    names = [f"shared_expert.{name}_proj.weight" for name in ("gate", "up", "down")]
    for row, found in zip(x, ours, strict=True):
        odds = (t["gate.weight"] @ row).exp()
        odds /= odds.sum()
        first, second = odds.argsort(descending=True)[:2].tolist()
        expected = torch.sigmoid(t["shared_expert_gate.weight"] @ row) * gated(
            row, *(t[name] for name in names)
        )
        for e in (first, second):
            gate, up = t["experts.gate_up_proj"][e].split(10)
            share = odds[e] / (odds[first] + odds[second])
            expected += share * gated(row, gate, up, t["experts.down_proj"][e])
        assert worst(found, expected) < 1e-4


@pytest.mark.parametrize("disabled", [(), ("moe_fused",)], ids=["fused", "plain"])
def test_E009_the_best_expert_times_its_raw_probability(
    disabled: tuple[str, ...], tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(3)
    shapes = {"gate": (10, HIDDEN), "up": (10, HIDDEN), "down": (HIDDEN, 10)}
    t = {
        f"experts.{e}.{name}_proj.weight": torch.randn(shape, generator=generator) / 4
        for e in range(6)
        for name, shape in shapes.items()
    }
    t["gate.weight"] = torch.randn((6, HIDDEN), generator=generator)
    layer, x = load(tmp_path, t, *disabled, num_experts_per_tok=1), rows(7)
    for row, found in zip(x, layer(x), strict=True):
        odds = (t["gate.weight"] @ row).softmax(0)
        e = int(odds.argmax())
        matrices = (t[f"experts.{e}.{name}_proj.weight"] for name in shapes)
        assert worst(found, odds[e] * gated(row, *matrices)) < 1e-5


def align(folder: Path) -> None:
    """Let tensors begin at multiples of 64 bytes: torch rounds sums of others in another order."""
    for file in folder.glob("*.safetensors"):
        data = file.read_bytes()
        length = int.from_bytes(data[:8], "little")
        spaces = b" " * (-(8 + length) % 64)
        header = (length + len(spaces)).to_bytes(8, "little") + data[8 : 8 + length] + spaces
        file.write_bytes(header + data[8 + length :])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_E010_both_layouts_give_identical_logits(
    dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("helexa.engine.quant.dense.SMALL_MATRIX", 0)
    single = Family("single", "qwen3_moe", {"num_hidden_layers": 2}).save(tmp_path / "single")
    stacked = save_stacked(single, tmp_path / "stacked")
    align(single.folder)
    align(stacked)
    one = load_model(single.folder, dtype=dtype, device="cpu")
    other = load_model(stacked, dtype=dtype, device="cpu")
    assert torch.equal(one.compute_logits(prompt(70)), other.compute_logits(prompt(70)))
    assert torch.equal(one.compute_logits(prompt(1)), other.compute_logits(prompt(1)))
    assert (one.nbytes, one.num_parameters) == (other.nbytes, other.num_parameters)


@pytest.mark.parametrize("layout", ["single", "stacked"])
def test_plain_experts_lie_in_two_tensors_for_kernels(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, from either layout; the weights are parts of them."""

    def formats(self: Experts) -> tuple[DenseStack, DenseStack]:
        plain, count = self.numerics.plain, self.count
        return DenseStack((count, 20, HIDDEN), plain), DenseStack((count, HIDDEN, 10), plain)

    monkeypatch.setattr(Experts, "formats", formats)
    tensors = draw(block())
    gate_up, down = tensors["experts.gate_up_proj"], tensors["experts.down_proj"]
    if layout == "single":
        del tensors["experts.gate_up_proj"], tensors["experts.down_proj"]
        for e in range(6):
            gate, up = gate_up[e].split(10)
            matrices = {"gate": gate, "up": up, "down": down[e]}
            tensors |= {f"experts.{e}.{n}_proj.weight": m for n, m in matrices.items()}
    experts = load(tmp_path, tensors).experts
    assert experts.stacks is not None
    assert torch.equal(experts.stacks.gate_up, gate_up)
    assert torch.equal(experts.stacks.down, down)
    assert torch.equal(experts.experts[4].gate_up.matrix(), gate_up[4])
    assert experts.nbytes == gate_up.nbytes + down.nbytes


@pytest.mark.gpu
@pytest.mark.parametrize("disabled", [(), ("moe_fused",)], ids=["fused", "plain"])
def test_a_gpu_finds_the_same_logits(disabled: tuple[str, ...], tmp_path: Path) -> None:
    made = Family("moe", "qwen3_moe", {"num_hidden_layers": 2}, seed=93).save(tmp_path)
    model = load_model(made.folder, dtype="float32", device="cuda", disabled=disabled)
    for length in (1, 5, 96):
        ours = model.compute_logits(prompt(length)).cpu()
        assert worst(ours, made.logits(prompt(length))) < 1e-3


def test_experts_are_small_or_large_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many matrices do not lie in a cache because each of them would."""
    monkeypatch.setattr("helexa.engine.quant.dense.SMALL_MATRIX", 64 * 32 * 4)
    monkeypatch.setattr("helexa.engine.quant.blocks.weight.SMALL_MATRIX", 64 * 32 * 4)
    numerics = resolve_numerics("float16", torch.device("cpu"), False, ())
    matrix = torch.randn(64, 32).half()
    for quant in (None, "q8_0"):
        wanted = replace(numerics, linear=linear_format(quant, numerics.plain))
        alone, few, many = (
            Experts(32, 64, count, wanted).numerics.linear.make([matrix]) for count in (1, 3, 4)
        )
        assert type(alone) is type(few) is FloatWeight
        assert type(many) is not FloatWeight
        torch.testing.assert_close(many.matrix().float(), matrix.float(), atol=0.03, rtol=0)


def test_the_switch_reaches_the_experts(tmp_path: Path) -> None:
    tensors = draw(block())
    assert load(tmp_path, tensors).experts.run is experts_grouped
    assert load(tmp_path, tensors, "moe_fused").experts.run is experts_definition


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_experts": 5}, "gate.weight"),
        ({"moe_intermediate_size": 11}, "experts.gate_up_proj"),
        ({"shared_expert_intermediate_size": 3}, "shared_expert.gate_proj.weight"),
    ],
    ids=str,
)
def test_tensors_of_another_shape_are_refused(
    changes: dict[str, Any], named: str, tmp_path: Path
) -> None:
    tensors = draw(block())
    with pytest.raises(CheckpointError, match=named):
        load(tmp_path, tensors, **changes)
