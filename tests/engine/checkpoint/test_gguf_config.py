"""Configs from the metadata of GGUF files, and their tensors under Hugging Face names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helexa.engine.checkpoint.gguf_config import gguf_config, share
from helexa.engine.checkpoint.gguf_file import GGUFHead
from helexa.engine.checkpoint.gguf_names import Place, tensor_places
from helexa.engine.checkpoint.gguf_types import READABLE
from helexa.engine.checkpoint.table import TensorInfo
from helexa.engine.layers.rope import inverse_frequencies
from helexa.errors import CheckpointError, UnsupportedModel

COMMON = {
    "block_count": 4,
    "embedding_length": 64,
    "feed_forward_length": 96,
    "context_length": 512,
    "attention.head_count": 8,
    "attention.head_count_kv": 2,
    "attention.key_length": 32,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "rope.freq_base": 1e6,
}
HYBRID = {
    "rope.dimension_count": 8,
    "rope.dimension_sections": [2, 1, 1, 0],
    "ssm.conv_kernel": 4,
    "ssm.state_size": 16,
    "ssm.group_count": 2,
    "ssm.time_step_rank": 4,
    "ssm.inner_size": 32,
    "full_attention_interval": 2,
}
EXPERTS = {
    "expert_count": 6,
    "expert_used_count": 2,
    "expert_feed_forward_length": 24,
    "expert_shared_feed_forward_length": 40,
}


def info(name: str, *shape: int, dtype: str = "F32", start: int = 0) -> TensorInfo:
    return TensorInfo(name, shape, dtype, READABLE[dtype].tensor_bytes(shape), "m.gguf", start)


def head(architecture: str, values: dict[str, Any], *tensors: TensorInfo) -> GGUFHead:
    """A file of four layers with these metadata, and a vocabulary of 100."""
    layers = [info(f"blk.{i}.attn_norm.weight", 64) for i in range(5)]
    table = {i.name: i for i in (info("token_embd.weight", 100, 64), *layers, *tensors)}
    named = {
        key if key.startswith("tokenizer.") else f"{architecture}.{key}": value
        for key, value in values.items()
        if value is not None
    }
    return GGUFHead(Path("m.gguf"), {"general.architecture": architecture, **named}, table)


def test_a_dense_model() -> None:
    ends = {"tokenizer.ggml.eos_token_id": 7, "tokenizer.ggml.eot_token_id": 9}
    config = gguf_config(head("qwen3", COMMON | ends))
    assert (config.model_type, config.vocab_size, config.hidden_size) == ("qwen3", 100, 64)
    assert (config.num_hidden_layers, config.intermediate_size) == (4, 96)
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (8, 2, 32)
    assert (config.max_position_embeddings, config.rms_norm_eps) == (512, 1e-6)
    assert (config.qk_norm, config.moe, config.delta) == (True, None, None)
    assert config.tie_word_embeddings
    assert not (config.attention_bias or config.mlp_bias)
    assert (config.rope.theta, config.rope.rope_type) == (1e6, "default")
    assert config.eos_token_ids == (7, 9)


def test_what_tensors_say() -> None:
    there = info("output.weight", 100, 64), info("blk.0.attn_q.bias", 256)
    config = gguf_config(head("llama", COMMON | {"attention.key_length": None}, *there))
    assert (config.tie_word_embeddings, config.attention_bias) == (False, True)
    assert (config.head_dim, config.qk_norm) == (8, False)


def test_surplus_blocks_are_no_layers() -> None:
    values = COMMON | {"block_count": 5, "nextn_predict_layers": 1}
    assert gguf_config(head("qwen3", values)).num_hidden_layers == 4


def test_a_mixture_of_experts() -> None:
    routers = [info(f"blk.{i}.ffn_gate_inp.weight", 6, 64) for i in (0, 1, 3)]
    moe = gguf_config(head("qwen3moe", COMMON | EXPERTS, *routers)).moe
    assert moe is not None
    assert (moe.experts, moe.top_k, moe.size, moe.shared_size) == (6, 2, 24, 40)
    assert (moe.norm_topk_prob, moe.layers) == (True, frozenset({0, 1, 3}))


@pytest.mark.parametrize(
    ("architecture", "model_type", "tiled"),
    [
        ("qwen3next", "qwen3_next", False),
        ("qwen35", "qwen3_5", True),
        ("qwen35moe", "qwen3_5_moe", True),
    ],
)
def test_hybrids(architecture: str, model_type: str, tiled: bool) -> None:
    experts = EXPERTS if architecture != "qwen35" else {}
    config = gguf_config(head(architecture, COMMON | HYBRID | experts))
    assert config.model_type == model_type
    assert config.layer_types == ("linear_attention", "full_attention") * 2
    assert (config.gated_attention, config.zero_centred_norms) == (True, False)
    delta = config.delta
    assert delta is not None
    assert (delta.key_heads, delta.key_dim, delta.value_heads, delta.value_dim) == (2, 16, 4, 8)
    assert (delta.kernel, delta.tiled) == (4, tiled)
    assert config.rope.rotary_dim(config.head_dim) == 8
    listed = COMMON | HYBRID | experts | {"attention.head_count_kv": [2, 0, 0, 2]}
    config = gguf_config(head(architecture, listed))
    assert config.num_key_value_heads == 2
    assert [kind[:4] for kind in config.layer_types] == ["full", "line", "line", "full"]


def test_rope_scaling() -> None:
    yarn = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0}
    yarn |= {"rope.scaling.original_context_length": 128, "rope.scaling.attn_factor": 0.5}  # type: ignore[dict-item]  # ints among texts
    rope = gguf_config(head("qwen3", COMMON | yarn)).rope
    assert (rope.rope_type, rope.factor) == ("yarn", 4.0)
    assert rope.original_max_position_embeddings == 128
    assert rope.attention_factor == pytest.approx(0.5 * 1.1386294)
    linear = {"rope.scaling.type": "linear", "rope.scaling.factor": 2.0}
    assert gguf_config(head("llama", COMMON | linear)).rope.factor == 2.0
    old = gguf_config(head("llama", COMMON | {"rope.scale_linear": 3.0})).rope
    assert (old.rope_type, old.factor) == ("linear", 3.0)
    none = {"rope.scaling.type": "none", "rope.scaling.factor": 2.0}
    assert gguf_config(head("llama", COMMON | none)).rope.rope_type == "default"


def test_divisors_divide_frequencies() -> None:
    config = gguf_config(head("llama", COMMON), tuple(range(1, 17)))
    plain = gguf_config(head("llama", COMMON)).rope
    from helexa.engine.layers.rope import Rotary

    ours = Rotary(config.rope, 32).frequencies
    expected = [f / (i + 1) for i, f in enumerate(inverse_frequencies(plain, 32).tolist())]
    assert ours.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("head_dim", range(2, 257, 2))
def test_any_part_of_a_head_can_rotate(head_dim: int) -> None:
    for rotary in range(2, head_dim + 1, 2):
        assert int(head_dim * share(rotary, head_dim)) == rotary
    assert share(head_dim, head_dim) == 1.0


@pytest.mark.parametrize(
    ("architecture", "changes", "told"),
    [
        ("mamba", {}, "unsupported GGUF architecture 'mamba'; supported: llama, qwen3, qwen3moe, "),
        ("llama", EXPERTS, "`llama.expert_count` is 6"),
        ("qwen3", {"rope.scaling.type": "longrope", "rope.scaling.factor": 2.0}, "longrope"),
        ("qwen3", {"attention.value_length": 16}, "other sizes than keys"),
    ],
    ids=["architecture", "mixtral", "rope", "values"],
)
def test_what_is_not_supported(architecture: str, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(UnsupportedModel) as caught:
        gguf_config(head(architecture, COMMON | changes))
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"embedding_length": None}, "`qwen3.embedding_length` is missing"),
        ({"block_count": 2**40}, "`qwen3.block_count` must be"),
        ({"block_count": 1, "nextn_predict_layers": 1}, "`qwen3.block_count` must be"),
        ({"attention.head_count": "8"}, "`qwen3.attention.head_count` must be an integer"),
        ({"attention.head_count_kv": [2, 4]}, "`qwen3.attention.head_count_kv` must be the same"),
        ({"attention.head_count_kv": [[2]]}, "`qwen3.attention.head_count_kv` must be a number"),
        ({"attention.layer_norm_rms_epsilon": None}, "layer_norm_rms_epsilon` is missing"),
        ({"tokenizer.ggml.eos_token_id": -1}, "eos_token_id` must be"),
    ],
)
def test_metadata_that_make_no_sense_are_named(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        gguf_config(head("qwen3", COMMON | changes))
    assert told in str(caught.value)
    assert "m.gguf" in str(caught.value)


def test_there_must_be_an_embedding_and_fitting_divisors() -> None:
    whole = head("qwen3", COMMON)
    with pytest.raises(CheckpointError, match=r"'token_embd.weight' is missing"):
        gguf_config(GGUFHead(whole.path, whole.metadata, {}))
    with pytest.raises(CheckpointError, match="3 divisors"):
        gguf_config(whole, (1.0, 2.0, 3.0))


def places(*tensors: TensorInfo, heads: tuple[int, int] | None = None) -> dict[str, Place]:
    return tensor_places({info.name: info for info in tensors}, 2, heads)


NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
    "blk.1.attn_norm.weight": "model.layers.1.input_layernorm.weight",
    "blk.1.ffn_norm.weight": "model.layers.1.post_attention_layernorm.weight",
    "blk.1.attn_q.bias": "model.layers.1.self_attn.q_proj.bias",
    "blk.1.attn_output.weight": "model.layers.1.self_attn.o_proj.weight",
    "blk.1.ffn_gate_inp.weight": "model.layers.1.mlp.gate.weight",
    "blk.1.ffn_down_shexp.weight": "model.layers.1.mlp.shared_expert.down_proj.weight",
    "blk.1.attn_qkv.weight": "model.layers.1.linear_attn.in_proj_qkv.weight",
    "blk.1.attn_gate.weight": "model.layers.1.linear_attn.in_proj_z.weight",
    "blk.1.ssm_in.weight": "model.layers.1.linear_attn.in_proj_qkvz.weight",
    "blk.1.ssm_ba.weight": "model.layers.1.linear_attn.in_proj_ba.weight",
    "blk.1.ssm_alpha.weight": "model.layers.1.linear_attn.in_proj_a.weight",
    "blk.1.ssm_beta.weight": "model.layers.1.linear_attn.in_proj_b.weight",
    "blk.1.ssm_dt.bias": "model.layers.1.linear_attn.dt_bias",
    "blk.1.ssm_a": "model.layers.1.linear_attn.A",
    "blk.1.ssm_norm.weight": "model.layers.1.linear_attn.norm.weight",
    "blk.1.ssm_out.weight": "model.layers.1.linear_attn.out_proj.weight",
    "blk.1.strange.weight": "blk.1.strange.weight",
    "blk.1.attn_q.scale": "blk.1.attn_q.scale",
    "strange": "strange",
}


@pytest.mark.parametrize("name", NAMES)
def test_names(name: str) -> None:
    (found,) = places(info(name, 8, 8))
    assert found == NAMES[name]


def test_names_after_which_shapes_differ() -> None:
    found = places(
        info("blk.0.ssm_conv1d.weight", 12, 4), info("blk.0.ffn_gate_inp_shexp.weight", 8)
    )
    assert {name: place.info.shape for name, place in found.items()} == {
        "model.layers.0.linear_attn.conv1d.weight": (12, 1, 4),
        "model.layers.0.mlp.shared_expert_gate.weight": (1, 8),
    }


def test_what_predicts_further_tokens_is_left_out() -> None:
    names = "blk.2.attn_q.weight", "blk.1.nextn.eh_proj.weight", "rope_freqs.weight"
    assert places(*(info(name, 4) for name in names)) == {}


def test_experts_are_cut_out_of_one_tensor() -> None:
    blocks = info("blk.0.ffn_down_exps.weight", 3, 8, 64, dtype="Q8_0", start=1000)
    found = places(blocks, info("blk.0.ffn_gate_up_exps.weight", 2, 6, 4, start=5000))
    at = "model.layers.0.mlp.experts."
    assert {name: (p.info.shape, p.info.start, p.info.nbytes) for name, p in found.items()} == {
        **{f"{at}{e}.down_proj.weight": ((8, 64), 1000 + e * 544, 544) for e in range(3)},
        f"{at}0.gate_proj.weight": ((3, 4), 5000, 48),
        f"{at}0.up_proj.weight": ((3, 4), 5048, 48),
        f"{at}1.gate_proj.weight": ((3, 4), 5096, 48),
        f"{at}1.up_proj.weight": ((3, 4), 5144, 48),
    }


def test_only_rows_of_q_and_k_are_in_another_order() -> None:
    names = "blk.0.attn_q.weight", "blk.0.attn_k.bias", "blk.0.attn_v.weight"
    found = places(*(info(name, 32) for name in names), heads=(8, 2))
    assert [place.heads for place in found.values()] == [8, 2, 0]
