"""What `quantization_config` says, and that what is not supported is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from helexa.engine.config import ModelConfig
from helexa.engine.quantization_config import QuantizationConfig, Scheme
from helexa.errors import CheckpointError, UnsupportedModel
from tests.engine.quant.cases import SHAPE
from tools.quantised import AWQ, FP8, GPTQ, compressed


def read(**quantization: Any) -> QuantizationConfig:
    raw = {**SHAPE, "quantization_config": quantization}
    found = ModelConfig.from_dict(raw, "org/name").quantization
    assert found is not None
    return found


def test_the_official_fp8_checkpoints() -> None:
    found = read(
        activation_scheme="dynamic", fmt="e4m3", quant_method="fp8", weight_block_size=[128, 128]
    )
    assert found == QuantizationConfig(method="fp8", bits=8, block=(128, 128))
    assert found.described == "fp8, 8 bits, blocks of 128 × 128"
    skipped = read(**FP8, modules_to_not_convert=["lm_head"]).skipped
    assert skipped == read(**FP8, ignored_layers=["lm_head"]).skipped == ("lm_head",)


def test_awq() -> None:
    found = read(**{**AWQ, "group_size": 128, "version": "GEMM"}, modules_to_not_convert=None)
    assert (found.method, found.bits, found.group_size, found.sym) == ("awq", 4, 128, False)
    assert found.described == "awq, 4 bits, groups of 128"
    old = read(quant_method="awq", w_bit=4, q_group_size=64)
    assert (old.bits, old.group_size) == (4, 64)


def test_gptq() -> None:
    found = read(
        **{**GPTQ, "bits": 8, "group_size": -1, "desc_act": True, "sym": True},
        checkpoint_format="gptq_v2",
        dynamic={"-:.*lm_head": {}},
    )
    assert (found.bits, found.group_size, found.sym, found.desc_act) == (8, -1, True, True)
    assert (found.checkpoint_format, found.skipped) == ("gptq_v2", (".*lm_head",))
    assert read(**GPTQ).checkpoint_format == "gptq"


def test_blocks() -> None:
    exceptions = {"model.layers.*.mlp.down_proj.weight": "Q4_0", "lm_head.weight": "Q8_0"}
    found = read(quant_method="helexa_blocks", block_type="Q6_K", exceptions=exceptions)
    assert (found.method, found.bits) == ("helexa_blocks", 6)
    assert found.described == "helexa_blocks, 6 bits, Q6_K, Q4_0, Q8_0"
    assert found.type_of("model.layers.11.mlp.down_proj.weight") == "Q4_0"
    assert found.type_of("model.layers.11.mlp.up_proj.weight") == "Q6_K"
    assert found.type_of("lm_head.weight") == "Q8_0"
    for wrong in ({"block_type": "F32"}, {"block_type": 4}, {"exceptions": {"a": None}}):
        with pytest.raises(CheckpointError, match="|".join(wrong) + "|`a`"):
            read(**{"quant_method": "helexa_blocks", "block_type": "Q4_K", **wrong})


def test_schemes_are_found_by_name_then_pattern_then_class() -> None:
    weights = {"num_bits": 4, "strategy": "group", "group_size": 32}
    config = compressed("pack-quantized", **weights)
    config["config_groups"] |= {
        "patterns": {"targets": ["re:.*down_proj"], "weights": {**weights, "num_bits": 8}},
        "names": {
            "targets": ["model.layers.0.mlp.down_proj"],
            "weights": {**weights, "num_bits": 3},
        },
        "none": {"targets": ["model.norm"], "weights": None},
    }
    config["ignore"] = ["lm_head", "re:.*layers.1.self_attn"]
    found = read(**config)

    def bits(module: str) -> int | None:
        scheme = found.scheme(module)
        return None if scheme is None else scheme.bits

    assert bits("model.layers.0.mlp.up_proj") == 4
    assert bits("model.layers.1.mlp.down_proj") == 8
    assert bits("model.layers.0.mlp.down_proj") == 3
    assert bits("lm_head") is None
    assert bits("model.layers.1.self_attn.q_proj") is None
    assert bits("model.layers.2.self_attn.q_proj") == 4
    assert found.described == "compressed-tensors, 8 bits, pack-quantized"


def test_a_scheme_says_how() -> None:
    found = read(
        **compressed("float-quantized", type="float", strategy="block", block_structure=[128, 64])
    )
    assert found.schemes == (
        Scheme(("Linear",), "float-quantized", 8, "float", True, None, (128, 64)),
    )


@pytest.mark.parametrize("absent", [None, {}])
def test_none(absent: Any) -> None:
    raw = {**SHAPE, "quantization_config": absent}
    assert ModelConfig.from_dict(raw, "org/name").quantization is None


@pytest.mark.parametrize(
    "method",
    ["bitsandbytes", "hqq", "quanto", "mxfp4", "nvfp4", "auto-round", "modelopt", "torchao", "x"],
)
def test_other_methods_are_refused_by_name(method: str) -> None:
    with pytest.raises(UnsupportedModel) as caught:
        read(quant_method=method, bits=4)
    assert f"unsupported `quant_method` '{method}'" in caught.value.message
    assert "`quantization_config`" in caught.value.message
    assert caught.value.hint.startswith(
        "supported: awq, compressed-tensors, fp8, gptq, helexa-blocks; "
    )


def test_a_method_that_is_not_named_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="unsupported `quant_method` None"):
        read(load_in_4bit=True)


INT4 = {"num_bits": 4, "strategy": "group", "group_size": 32}
GROUPS = compressed("pack-quantized", **INT4)


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({**AWQ, "version": "gemv"}, "version"),
        ({**AWQ, "bits": 8}, "bits"),
        ({**AWQ, "zero_point": False}, "zero_point"),
        ({**GPTQ, "checkpoint_format": "marlin"}, "checkpoint_format"),
        ({**GPTQ, "is_marlin_format": True}, "is_marlin_format"),
        ({**GPTQ, "bits": 5}, "bits"),
        ({**GPTQ, "pack_dtype": "int8"}, "pack_dtype"),
        ({**GPTQ, "dynamic": {"+:.*down_proj": {"bits": 8}}}, "dynamic"),
        ({**FP8, "fmt": "e5m2"}, "fmt"),
        ({**FP8, "expert_dtype": "fp4"}, "expert_dtype"),
        (compressed("nvfp4-pack-quantized", **INT4), "format"),
        (compressed("marlin-24", **INT4), "format"),
        ({**GROUPS, "kv_cache_scheme": {"num_bits": 8}}, "kv_cache_scheme"),
        ({**GROUPS, "transform_config": {"config_groups": {"u": {}}}}, "transform_config"),
        ({**GROUPS, "sparsity_config": {"format": "sparse-24-bitmask"}}, "sparsity_config"),
        ({**GROUPS, "config_groups": {}}, "config_groups"),
        (compressed("pack-quantized", **{**INT4, "strategy": "tensor_group"}), "strategy"),
        (compressed("pack-quantized", **{**INT4, "num_bits": 9}), "num_bits"),
        (compressed("float-quantized", type="float", num_bits=4), "num_bits"),
        (compressed("pack-quantized", type="float", num_bits=8), "type"),
    ],
    ids=repr,
)
def test_what_is_not_supported_is_named(config: dict[str, Any], field: str) -> None:
    with pytest.raises(UnsupportedModel, match=f"unsupported `{field}`") as caught:
        read(**config)
    assert caught.value.hint.startswith("supported: ")


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({**GPTQ, "bits": "four"}, "bits"),
        ({**GPTQ, "group_size": 0}, "group_size"),
        ({**GPTQ, "group_size": -2}, "group_size"),
        ({**FP8, "weight_block_size": [128]}, "weight_block_size"),
        ({**FP8, "weight_block_size": [128, 0]}, "weight_block_size"),
        ({**GROUPS, "ignore": "lm_head"}, "ignore"),
        ({**GROUPS, "ignore": ["re:(lm_head"]}, "ignore"),
        (compressed("pack-quantized", num_bits=4, strategy="group"), "group_size"),
    ],
    ids=repr,
)
def test_wrong_values_are_named(config: dict[str, Any], field: str) -> None:
    with pytest.raises(CheckpointError, match=f"`{field}`"):
        read(**config)
