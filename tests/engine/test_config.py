"""Model configs are read with their families' defaults; what is wrong or missing is named."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from helexa.engine.config import SUPPORTED, EngineConfig, ModelConfig, RopeConfig, switches
from helexa.engine.hybrid_config import DeltaConfig
from helexa.engine.moe_config import MoEConfig
from helexa.errors import CheckpointError, InvalidRequest, UnsupportedModel

REQUIRED = {
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 1000,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def read(model_type: str = "qwen3", **changes: Any) -> ModelConfig:
    return ModelConfig.from_dict({"model_type": model_type, **REQUIRED, **changes}, "org/name")


@pytest.mark.parametrize(
    ("model_type", "head_dim", "qk_norm"), [("qwen3", 128, True), ("llama", 16, False)]
)
def test_defaults_of_a_family(model_type: str, head_dim: int, qk_norm: bool) -> None:
    config = read(model_type)
    assert (config.head_dim, config.qk_norm) == (head_dim, qk_norm)
    assert (config.num_key_value_heads, config.rms_norm_eps) == (4, 1e-6)
    assert not (config.tie_word_embeddings or config.attention_bias or config.mlp_bias)
    assert config.rope == RopeConfig()
    assert (config.eos_token_ids, config.bos_token_id, config.torch_dtype) == ((), None, None)
    assert config.longest_sequence == 1000
    assert config.raw["vocab_size"] == 100


def test_given_values_win_and_null_is_absent() -> None:
    config = read(
        "llama",
        num_key_value_heads=2,
        head_dim=None,
        rms_norm_eps=1e-5,
        mlp_bias=True,
        eos_token_id=[5, 7],
        bos_token_id=1,
        dtype="bfloat16",
        some_new_key={"ignored": 1},
    )
    assert (config.num_key_value_heads, config.head_dim) == (2, 16)
    assert (config.rms_norm_eps, config.mlp_bias) == (1e-5, True)
    assert (config.eos_token_ids, config.bos_token_id) == ((5, 7), 1)
    assert config.torch_dtype == "bfloat16"
    assert read(torch_dtype="float16", eos_token_id=3).eos_token_ids == (3,)
    assert not read("qwen3", mlp_bias=True).mlp_bias


def test_E037_kv_bytes_per_token() -> None:
    config = read(num_hidden_layers=16, num_key_value_heads=4, head_dim=256)
    assert config.kv_bytes_per_token(2) == 65536
    assert config.kv_bytes_per_token(2, world_size=2) == 32768
    assert config.kv_bytes_per_token(2, world_size=8) == 65536 // 4


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        *(({name: None}, name) for name in REQUIRED),
        ({"hidden_size": "64"}, "hidden_size"),
        ({"hidden_size": True}, "hidden_size"),
        ({"hidden_size": 64.5}, "hidden_size"),
        ({"vocab_size": 0}, "vocab_size"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"rms_norm_eps": "1e-6"}, "rms_norm_eps"),
        ({"rms_norm_eps": math.inf}, "rms_norm_eps"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
        ({"architectures": "Qwen3"}, "architectures"),
        ({"eos_token_id": "</s>"}, "eos_token_id"),
        ({"layer_types": ["full_attention"]}, "layer_types"),
        ({"rope_scaling": [1]}, "rope_scaling"),
        ({"rope_scaling": {"rope_type": "linear"}}, "factor"),
        ({"rope_scaling": {"type": 3}}, "type"),
        ({"rope_scaling": LLAMA3 | {"high_freq_factor": 1.0}}, "high_freq_factor"),
        ({"rope_scaling": LLAMA3 | {"original_max_position_embeddings": None}}, "original_max"),
        ({"rope_scaling": {"type": "yarn", "truncate": 1}}, "truncate"),
        ({"partial_rotary_factor": 2.0}, "partial_rotary_factor"),
        ({"head_dim": 5}, "head_dim"),
        ({"rope_theta": -1}, "rope_theta"),
        ({"rope_theta": 1.0, "rope_scaling": {"type": "yarn"}}, "rope_theta"),
    ],
    ids=repr,
)
def test_wrong_values_name_file_model_and_field(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(CheckpointError, match=f"config.json of 'org/name'.*`{field}"):
        read(**changes)


EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32}


def test_E007_a_hybrid_of_48_layers() -> None:
    config = read("qwen3_next", num_hidden_layers=48, intermediate_size=None, **EXPERTS)
    full = [i for i, kind in enumerate(config.layer_types) if kind == "full_attention"]
    assert (len(full), full[0], full[-1]) == (12, 3, 47)
    assert config.gated_attention
    assert config.zero_centred_norms
    assert config.moe is not None
    assert config.moe.layers == set(range(48))
    assert (config.moe.norm_topk_prob, config.intermediate_size) == (True, 0)
    assert (config.head_dim, config.rope.partial_rotary_factor) == (256, 0.25)


def test_E008_layers_of_experts() -> None:
    config = read(
        "qwen3_moe", num_hidden_layers=6, decoder_sparse_step=2, mlp_only_layers=[3], **EXPERTS
    )
    assert config.moe is not None
    assert config.moe.layers == {1, 5}
    assert config.intermediate_size == 96
    whole = read("qwen3_moe", decoder_sparse_step=0, **EXPERTS)
    assert whole.moe is not None
    assert not whole.moe.layers


def test_a_mixture_of_experts_and_its_defaults() -> None:
    config = read("qwen3_moe", intermediate_size=None, **EXPERTS)
    assert config.moe == MoEConfig(
        experts=8, top_k=2, size=32, shared_size=0, norm_topk_prob=False, layers=frozenset(range(3))
    )
    assert (config.head_dim, config.qk_norm, config.gated_attention) == (16, True, False)
    named = {"num_local_experts": 8, "norm_topk_prob": True, "shared_expert_intermediate_size": 7}
    other = read("qwen3_moe", **{**EXPERTS, **named, "num_experts": None}).moe
    assert other is not None
    assert (other.experts, other.norm_topk_prob, other.shared_size) == (8, True, 7)
    always = read("qwen3_5_moe", **EXPERTS, norm_topk_prob=False, num_hidden_layers=4).moe
    assert always is not None
    assert always.norm_topk_prob
    assert read("qwen3", **EXPERTS).moe is None
    assert read("qwen3_moe").moe is None


def test_parameters_that_a_token_does_not_meet() -> None:
    moe = read("qwen3_moe", **EXPERTS, mlp_only_layers=[0]).moe
    assert moe is not None
    assert moe.idle_parameters(64) == 2 * (8 - 2) * 3 * 32 * 64


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"num_experts": -1}, "num_experts"),
        ({"num_experts_per_tok": None}, "num_experts_per_tok"),
        ({"num_experts_per_tok": 0}, "num_experts_per_tok"),
        ({"num_experts_per_tok": 9}, "num_experts_per_tok"),
        ({"moe_intermediate_size": 0}, "moe_intermediate_size"),
        ({"norm_topk_prob": 1}, "norm_topk_prob"),
        ({"decoder_sparse_step": -1}, "decoder_sparse_step"),
        ({"mlp_only_layers": 3}, "mlp_only_layers"),
        ({"mlp_only_layers": ["3"]}, "mlp_only_layers"),
        ({"mlp_only_layers": [0], "intermediate_size": None}, "intermediate_size"),
    ],
    ids=repr,
)
def test_wrong_fields_of_experts_are_named(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(CheckpointError, match=f"`{field}`"):
        read("qwen3_moe", **{**EXPERTS, **changes})


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"use_sliding_window": True, "max_window_layers": 2}, "use_sliding_window"),
        ({"use_sliding_window": True, "max_window_layers": 0}, "use_sliding_window"),
        ({"layer_types": ["full_attention", "sliding_attention", "full_attention"]}, "layer_types"),
        ({"rope_scaling": {"rope_type": "longrope"}}, "rope_type"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e6}}}, "rope_parameters"),
        ({"quantization_config": {"quant_method": "hqq"}}, "quantization_config"),
    ],
    ids=repr,
)
def test_unsupported_features_name_the_field(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(UnsupportedModel, match=f"`{field}`"):
        read(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"use_sliding_window": False, "sliding_window": 4096},
        {"use_sliding_window": True, "max_window_layers": 3},
        {"use_sliding_window": True, "max_window_layers": 0, "sliding_window": None},
        {"layer_types": ["full_attention"] * 3},
        {"layer_types": [], "quantization_config": None},
    ],
    ids=repr,
)
def test_windows_that_affect_no_layer_are_accepted(changes: dict[str, Any]) -> None:
    assert read(**changes).num_hidden_layers == 3


def test_e022_unknown_type_names_type_model_architectures_and_the_supported() -> None:
    with pytest.raises(UnsupportedModel) as caught:
        read("fictional_arch_99", architectures=["FictionalForCausalLM"])
    assert caught.value.message == (
        "unsupported model_type 'fictional_arch_99' for 'org/name' "
        f"(architectures=[FictionalForCausalLM]); supported: [{', '.join(SUPPORTED)}]"
    )


def test_e022_a_missing_type_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="missing `model_type`"):
        ModelConfig.from_dict(REQUIRED, "org/name")
    with pytest.raises(CheckpointError, match="JSON object, not list"):
        ModelConfig.from_dict([], "org/name")
    path = tmp_path / "config.json"
    with pytest.raises(CheckpointError, match=r"cannot read .*config\.json"):
        ModelConfig.from_file(path)
    for text in (b"{", b"\xff\xfe", b"[" * 9999):
        path.write_bytes(text)
        with pytest.raises(CheckpointError, match=r"config\.json of .* is not valid JSON"):
            ModelConfig.from_file(path)
    path.write_text(json.dumps({"model_type": "qwen3", **REQUIRED}))
    assert ModelConfig.from_file(path).vocab_size == 100


@pytest.mark.parametrize("key", ["rope_parameters", "rope_scaling"])
@pytest.mark.parametrize("alias", ["rope_type", "type"])
def test_rope_keys_old_and_new(key: str, alias: str) -> None:
    rope = read(**{key: {alias: "linear", "factor": 4}, "rope_theta": 1e6}).rope
    assert rope == RopeConfig(theta=1e6, rope_type="linear", factor=4.0)


def test_rope_parameters_win_over_scaling_and_top_level() -> None:
    rope = read(
        rope_parameters={"rope_type": "default", "rope_theta": 5e5},
        rope_scaling={"type": "linear", "factor": 2.0},
        rope_theta=1e4,
        partial_rotary_factor=0.5,
    ).rope
    assert rope == RopeConfig(theta=5e5, partial_rotary_factor=0.5)
    assert rope.rotary_dim(128) == 64


def test_llama3_rope() -> None:
    config = read("llama", rope_scaling=LLAMA3, rope_theta=5e5)
    assert config.rope == RopeConfig(
        theta=5e5,
        rope_type="llama3",
        factor=8.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=8192,
    )
    assert config.longest_sequence == 1000


def test_yarn_rope_defaults_and_longest_sequence() -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    config = read(rope_scaling=yarn, max_position_embeddings=40960)
    assert config.longest_sequence == 131072
    assert config.rope.attention_factor == pytest.approx(0.1 * math.log(4.0) + 1.0)
    assert (config.rope.beta_fast, config.rope.beta_slow, config.rope.truncate) == (32, 1, True)
    short = read(rope_scaling={"rope_type": "yarn", "factor": 0.5})
    assert (short.longest_sequence, short.rope.attention_factor) == (1000, 1.0)
    assert short.rope.original_max_position_embeddings == 1000


def test_yarn_given_values() -> None:
    yarn: dict[str, Any] = {
        "rope_type": "yarn",
        "original_max_position_embeddings": 250,
        "beta_fast": 16,
        "truncate": False,
        "attention_factor": 1.5,
    }
    rope = read(rope_scaling=yarn).rope
    assert (rope.factor, rope.beta_fast, rope.truncate) == (4.0, 16.0, False)
    assert rope.attention_factor == 1.5
    del yarn["attention_factor"]
    both = read(rope_scaling=yarn | {"mscale": 2.0, "mscale_all_dim": 1.0}).rope
    grown = math.log(4.0) / 10
    assert both.attention_factor == pytest.approx((2 * grown + 1) / (grown + 1))


@pytest.mark.parametrize(
    "changes",
    [
        {"device": "gpu"},
        {"device": None},
        {"dtype": "int8"},
        {"quant": 4},
        {"max_batch": 0},
        {"max_batch": True},
        {"max_context": 0},
        {"kv_memory_mb": "1024"},
        {"kv_context_tokens": 1.5},
        {"block_size": -16},
        {"prefill_chunk_tokens": 0},
        {"prefix_cache": "yes"},
        {"prefix_cache_mb": -1},
        {"max_entries": -1},
        {"disabled": {"nonsense"}},
    ],
    ids=repr,
)
def test_engine_config_names_the_wrong_parameter(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        EngineConfig(**changes)
    assert caught.value.param == next(iter(changes))


def test_engine_config_accepts() -> None:
    EngineConfig(device="cuda:1", dtype="bfloat16", quant="q4k", prefix_cache_mb=0, max_entries=0)
    assert EngineConfig().prefill_chunk_tokens == 512


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, ""),
        ({"HELEXA_DISABLE": ""}, ""),
        ({"HELEXA_DISABLE": "batching, cuda_graphs,"}, "batching cuda_graphs"),
        ({"NEURON_BATCHING": "FALSE", "NEURON_MROPE": "off"}, "batching mrope"),
        ({"NEURON_BATCHING": "off", "NEURON_FLASH_ATTN": "1"}, ""),
        ({"HELEXA_DISABLE": "mrope", "NEURON_GDN_CHUNKED": "0"}, "gdn_chunked mrope"),
    ],
    ids=repr,
)
def test_switches(environ: dict[str, str], expected: str) -> None:
    assert " ".join(sorted(switches(environ))) == expected


def test_an_unknown_switch_warns_and_lists_the_known() -> None:
    with pytest.warns(UserWarning, match=r"unknown switch 'flash'; known: batching"):
        assert switches({"HELEXA_DISABLE": "flash,batching"}) == {"batching"}


def test_the_state_of_a_sequence_has_a_size_of_its_own() -> None:
    delta = DeltaConfig(key_heads=16, value_heads=48, key_dim=128, value_dim=128, kernel=4)
    assert delta.channels == 10240
    assert 48 * delta.state_bytes(2) / 2**20 == pytest.approx(146.8, abs=0.05)


def test_a_model_without_any_attention_is_refused() -> None:
    kinds = ["linear_attention"] * 4
    with pytest.raises(UnsupportedModel, match="`layer_types` has full attention"):
        read("qwen3_next", num_hidden_layers=4, layer_types=kinds, **EXPERTS)
