"""GGUF files of small models, written with the `gguf` package from safetensors checkpoints.

The conversions are written out here, independently of the reader they test.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from tests.engine.checkpoint import gguf_hybrids as hybrids

Array = NDArray[Any]
ARCHITECTURES = {
    "llama": "llama",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3moe",
    **hybrids.ARCHITECTURES,
}
OUTSIDE = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
IN_LAYER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
}
STACKED = {
    "mlp.experts.gate_up_proj": "ffn_gate_up_exps.weight",
    "mlp.experts.down_proj": "ffn_down_exps.weight",
}
Quantise = Callable[[str, Array], tuple[Array, gguf.GGMLQuantizationType | None]]


def plain(dtype: type) -> Quantise:
    """Matrices in a plain format; vectors stay float32, as every converter leaves them."""

    def turn(name: str, values: Array) -> tuple[Array, None]:
        return values.astype(dtype if values.ndim > 1 else np.float32), None

    return turn


def quantised(kind: gguf.GGMLQuantizationType) -> Quantise:
    """Matrices in a block format of the package, where their rows are whole blocks."""
    block = gguf.GGML_QUANT_SIZES[kind][0]

    def turn(name: str, values: Array) -> tuple[Array, gguf.GGMLQuantizationType | None]:
        if values.ndim < 2 or values.shape[-1] % block:
            return values.astype(np.float32), None
        return gguf.quantize(values.astype(np.float32), kind), kind

    return turn


def interleaved(values: Array, heads: int) -> Array:
    """Rows of heads whose halves rotate together, put pair by pair: 0, D/2, 1, D/2 + 1 …"""
    size = len(values) // heads
    order = [
        head * size + half * size // 2 + i
        for head in range(heads)
        for i in range(size // 2)
        for half in range(2)
    ]
    return values[order]


def tensors_of(folder: Path) -> dict[str, Array]:
    """All tensors of a safetensors folder, float32."""
    found: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return {name: tensor.float().numpy() for name, tensor in found.items()}


def converted(config: Mapping[str, Any], tensors: Mapping[str, Array]) -> dict[str, Array]:
    """The tensors under GGUF's names, in its order."""
    found: dict[str, Array] = {}
    experts: dict[str, dict[int, Array]] = {}
    for name, stored in tensors.items():
        values = hybrids.converted(name, stored, config) if hybrids.is_hybrid(config) else stored
        module, _, kind = name.rpartition(".")
        if module in OUTSIDE:
            found[f"{OUTSIDE[module]}.{kind}"] = values
            continue
        layer, inner = module.removeprefix("model.layers.").split(".", 1)
        if hybrids.is_hybrid(config) and f"{inner}.{kind}" in hybrids.NAMES:
            found[f"blk.{layer}.{hybrids.NAMES[f'{inner}.{kind}']}"] = values
            continue
        if f"{inner}.{kind}" in STACKED:
            found[f"blk.{layer}.{STACKED[f'{inner}.{kind}']}"] = values
            continue
        parts = inner.split(".")
        if "experts" in parts:
            to = f"blk.{layer}.ffn_{parts[3].removesuffix('_proj')}_exps.weight"
            experts.setdefault(to, {})[int(parts[2])] = values
            continue
        if config["model_type"] == "llama" and inner.endswith(("q_proj", "k_proj")):
            heads = "num_attention_heads" if "q_proj" in inner else "num_key_value_heads"
            values = interleaved(values, config[heads])
        found[f"blk.{layer}.{IN_LAYER[inner]}.{kind}"] = values
    for to, each in experts.items():
        found[to] = np.stack([each[i] for i in range(len(each))])
    return found


def head_dim_of(config: Mapping[str, Any]) -> int:
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def write_config(writer: gguf.GGUFWriter, config: Mapping[str, Any]) -> None:
    """The metadata of the model itself."""
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config.get("intermediate_size", 0))
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(head_dim_of(config))
    writer.add_value_length(head_dim_of(config))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    rope = config.get("rope_parameters") or config
    writer.add_rope_freq_base(rope["rope_theta"])
    part = rope.get("partial_rotary_factor", 1.0)
    writer.add_rope_dimension_count(int(head_dim_of(config) * part))
    if hybrids.is_hybrid(config):
        hybrids.write_hybrid(writer, config)
    if rope.get("rope_type") in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
    if rope.get("rope_type") == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    experts = config.get("num_experts") or config.get("num_local_experts")
    if experts:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(config["num_experts_per_tok"])
        writer.add_expert_feed_forward_length(config["moe_intermediate_size"])


def llama3_divisors(rope: Mapping[str, Any], head_dim: int) -> Array:
    """By what Llama 3.1 divides each frequency, as converters store it in `rope_freqs.weight`."""
    length = rope["original_max_position_embeddings"]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    found = []
    for i in range(0, head_dim, 2):
        wave = 2 * math.pi * rope["rope_theta"] ** (i / head_dim)
        if wave < length / high:
            found.append(1.0)
        elif wave > length / low:
            found.append(rope["factor"])
        else:
            smooth = (length / wave - low) / (high - low)
            found.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(found, dtype=np.float32)


def write_tokenizer(writer: gguf.GGUFWriter, folder: Path, pre: str = "qwen2") -> None:
    """The metadata of the text layer, from a tokenizer.json of byte-level BPE beside the model."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    config = json.loads((folder / "config.json").read_text("utf-8"))
    by_id = {id: text for text, id in tokenizer["model"]["vocab"].items()}
    types = dict.fromkeys(by_id, gguf.TokenType.NORMAL)
    for token in tokenizer["added_tokens"]:
        by_id[token["id"]] = token["content"]
        special = token["special"]
        types[token["id"]] = gguf.TokenType.CONTROL if special else gguf.TokenType.USER_DEFINED
    ids = range(config["vocab_size"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([by_id.get(id, f"[PAD{id}]") for id in ids])
    writer.add_token_types([types.get(id, gguf.TokenType.UNUSED) for id in ids])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_add_bos_token(False)
    template = folder / "chat_template.jinja"
    if template.is_file():
        writer.add_chat_template(template.read_text("utf-8"))


def write_gguf(
    folder: Path,
    to: Path,
    turn: Quantise,
    *,
    tokenizer: bool = False,
    extra: Mapping[str, Array] | None = None,
    split_tensors: int = 0,
    fused: bool = False,
) -> Path:
    """The checkpoint of a folder as GGUF; returns the file, the first part of a split one.

    ``extra`` are tensors written beside those of the model. ``fused`` leaves the inputs of
    qwen3_next's linear layers in one matrix, as older converters did.
    """
    config = json.loads((folder / "config.json").read_text("utf-8"))
    writer = gguf.GGUFWriter(
        to, ARCHITECTURES[config["model_type"]], split_max_tensors=split_tensors
    )
    write_config(writer, config)
    if tokenizer:
        write_tokenizer(writer, folder)
    rope = config.get("rope_parameters") or {}
    more = dict(extra or {})
    if rope.get("rope_type") == "llama3":
        more["rope_freqs.weight"] = llama3_divisors(rope, head_dim_of(config))
    tensors = converted(config, tensors_of(folder))
    if not fused:
        tensors = hybrids.split_inputs(config, tensors)
    for name, values in {**tensors, **more}.items():
        data, kind = turn(name, values)
        writer.add_tensor(name, data, raw_dtype=kind)
    return finish(writer, to)


def finish(writer: gguf.GGUFWriter, to: Path) -> Path:
    """Write everything; returns the file, or the first part."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return to if to.is_file() else min(to.parent.glob(f"{to.stem}-00001-of-*.gguf"))
