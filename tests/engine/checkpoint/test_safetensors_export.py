"""What a written config says of block types is what its reader finds, for names of any model."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helexa.engine.checkpoint.safetensors_export import is_linear, section
from helexa.engine.checkpoint.table import TensorInfo
from helexa.engine.config import ModelConfig
from tests.engine.quant.cases import SHAPE

MODULES = (
    "self_attn.q_proj",
    "mlp.down_proj",
    "mlp.shared_expert.down_proj",
    "mlp.experts.0.down_proj",
    "mlp.experts.11.down_proj",
)
NAMES = [f"model.layers.{i}.{module}.weight" for i in range(3) for module in MODULES]
TYPES = st.sampled_from(["Q4_K", "Q4_0", "Q8_0"])


@given(types=st.dictionaries(st.sampled_from([*NAMES, "lm_head.weight"]), TYPES, min_size=1))
def test_types_are_found_again(types: dict[str, str]) -> None:
    written = section(types)
    found = ModelConfig.from_dict({**SHAPE, "quantization_config": written}, "m").quantization
    assert found is not None
    assert {name: found.type_of(name) for name in types} == types


def test_tensors_that_are_alike_are_named_once() -> None:
    kinds = {"down_proj": "Q4_0", "up_proj": "Q4_K", "gate_proj": "Q4_K"}
    types = {
        f"model.layers.{i}.mlp.{m}.weight": kind for i in range(9) for m, kind in kinds.items()
    }
    assert section(types)["exceptions"] == {"model.layers.*.mlp.down_proj.weight": "Q4_0"}
    types["model.layers.3.mlp.down_proj.weight"] = "Q4_K"
    assert len(section(types)["exceptions"]) == 8


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("lm_head.weight", (8, 8), True),
        ("model.language_model.layers.0.self_attn.q_proj.weight", (8, 8), True),
        ("model.layers.0.mlp.experts.3.up_proj.weight", (8, 8), True),
        ("model.layers.0.mlp.experts.gate_up_proj", (2, 8, 8), True),
        ("model.layers.0.linear_attn.in_proj_qkvz.weight", (8, 8), True),
        ("model.layers.0.linear_attn.in_proj_ba.weight", (8, 8), False),
        ("model.layers.0.linear_attn.conv1d.weight", (8, 1, 4), False),
        ("model.layers.0.mlp.gate.weight", (8, 8), False),
        ("model.layers.0.mlp.shared_expert_gate.weight", (1, 8), False),
        ("model.layers.0.self_attn.q_proj.bias", (8,), False),
        ("model.embed_tokens.weight", (8, 8), False),
        ("model.norm.weight", (8,), False),
        ("model.visual.blocks.0.attn.qkv.weight", (8, 8), False),
        ("model.visual.layers.0.mlp.down_proj.weight", (8, 8), False),
    ],
)
def test_which_tensors_are_linear(name: str, shape: tuple[int, ...], expected: bool) -> None:
    assert is_linear(TensorInfo(name, shape, "BF16", 0, "model.safetensors", 0)) is expected
