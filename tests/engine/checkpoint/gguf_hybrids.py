"""How converters store hybrid models in GGUF, written out: heads in another order, norms with 1 +.

Shapes: Hk key heads, Hv value heads of Dk and Dv dims, r = Hv / Hk.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
ARCHITECTURES = {
    "qwen3_next": "qwen3next",
    "qwen3_5_text": "qwen35",
    "qwen3_5_moe_text": "qwen35moe",
}
NAMES = {
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "post_attention_norm.weight",
    "linear_attn.in_proj_qkv.weight": "attn_qkv.weight",
    "linear_attn.in_proj_z.weight": "attn_gate.weight",
    "linear_attn.in_proj_qkvz.weight": "ssm_in.weight",
    "linear_attn.in_proj_ba.weight": "ssm_ba.weight",
    "linear_attn.in_proj_b.weight": "ssm_beta.weight",
    "linear_attn.in_proj_a.weight": "ssm_alpha.weight",
    "linear_attn.conv1d.weight": "ssm_conv1d.weight",
    "linear_attn.dt_bias": "ssm_dt.bias",
    "linear_attn.A_log": "ssm_a",
    "linear_attn.norm.weight": "ssm_norm.weight",
    "linear_attn.out_proj.weight": "ssm_out.weight",
    "mlp.shared_expert.gate_proj.weight": "ffn_gate_shexp.weight",
    "mlp.shared_expert.up_proj.weight": "ffn_up_shexp.weight",
    "mlp.shared_expert.down_proj.weight": "ffn_down_shexp.weight",
    "mlp.shared_expert_gate.weight": "ffn_gate_inp_shexp.weight",
}


def is_hybrid(config: Mapping[str, Any]) -> bool:
    return config["model_type"] in ARCHITECTURES


def centred(name: str) -> bool:
    """Whether a tensor is the weight of a norm that multiplies by 1 + weight."""
    return name.endswith(
        ("layernorm.weight", "q_norm.weight", "k_norm.weight", "model.norm.weight")
    )


def tile(values: Array, config: Mapping[str, Any], size: int) -> Array:
    """Value heads, ``size`` rows each, from the order of their key heads to every r-th in turn."""
    keys, heads = config["linear_num_key_heads"], config["linear_num_value_heads"]
    each = heads // keys
    order = [key * each + i for i in range(each) for key in range(keys)]
    split = values.reshape(heads, size, *values.shape[1:])
    return split[order].reshape(values.shape)


def tiled(name: str, values: Array, config: Mapping[str, Any]) -> Array:
    """A tensor of a linear layer as qwen35 files have it."""
    size = config["linear_value_head_dim"]
    if name.endswith(("in_proj_qkv.weight", "conv1d.weight")):
        keys = 2 * config["linear_num_key_heads"] * config["linear_key_head_dim"]
        return np.concatenate([values[:keys], tile(values[keys:], config, size)])
    if name.endswith("in_proj_z.weight"):
        return tile(values, config, size)
    if name.endswith("out_proj.weight"):
        return tile(values.T, config, size).T
    if name.endswith(("in_proj_b.weight", "in_proj_a.weight", "A_log", "dt_bias")):
        return tile(values, config, 1)
    return values


def ungrouped(values: Array, config: Mapping[str, Any]) -> tuple[Array, Array]:
    """in_proj_qkvz, grouped by key head → qkv rows and z rows, as newer converters split it."""
    keys, dim = config["linear_num_key_heads"], config["linear_key_head_dim"]
    per_key = config["linear_num_value_heads"] // keys * config["linear_value_head_dim"]
    groups = values.reshape(keys, 2 * dim + 2 * per_key, -1)
    cuts = np.split(groups, [dim, 2 * dim, 2 * dim + per_key], axis=1)
    q, k, v, z = (part.reshape(-1, values.shape[1]) for part in cuts)
    return np.concatenate([q, k, v]), z


def split_inputs(config: Mapping[str, Any], tensors: Mapping[str, Array]) -> dict[str, Array]:
    """The same tensors, where `ssm_in` has become `attn_qkv` and `attn_gate`."""
    found = dict(tensors)
    for name in [name for name in found if name.endswith("ssm_in.weight")]:
        qkv, z = ungrouped(found.pop(name), config)
        found[name.replace("ssm_in", "attn_qkv")] = qkv
        found[name.replace("ssm_in", "attn_gate")] = z
    return found


def converted(name: str, values: Array, config: Mapping[str, Any]) -> Array:
    """The values of a tensor as a file stores them."""
    if centred(name):
        return values + 1
    if ".linear_attn." in name and config["model_type"] != "qwen3_next":
        values = tiled(name, values, config)
    if name.endswith("A_log"):
        return -np.exp(values)
    if name.endswith(("conv1d.weight", "shared_expert_gate.weight")):
        return values.squeeze(1 if "conv1d" in name else 0)
    return values


def write_hybrid(writer: gguf.GGUFWriter, config: Mapping[str, Any]) -> None:
    """The metadata that only hybrid models have."""
    writer.add_ssm_conv_kernel(config["linear_conv_kernel_dim"])
    writer.add_ssm_state_size(config["linear_key_head_dim"])
    writer.add_ssm_group_count(config["linear_num_key_heads"])
    writer.add_ssm_time_step_rank(config["linear_num_value_heads"])
    heads = config["linear_num_value_heads"]
    writer.add_ssm_inner_size(heads * config["linear_value_head_dim"])
    sections = config["rope_parameters"].get("mrope_section")
    if sections:
        writer.add_rope_dimension_sections([*sections, 0])
    if config.get("shared_expert_intermediate_size"):
        writer.add_expert_shared_feed_forward_length(config["shared_expert_intermediate_size"])
