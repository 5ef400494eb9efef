"""A benchmark checkpoint as a GGUF file without a vocabulary, for llama.cpp."""

from __future__ import annotations

import json
from pathlib import Path

NAMES = {
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
}


def export_gguf(folder: Path) -> Path:
    """Write ``model.gguf`` beside a Qwen3 safetensors checkpoint, matrices in bfloat16."""
    import gguf
    import torch
    from safetensors import safe_open

    target = folder / "model.gguf"
    if target.is_file():
        return target
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(str(target) + ".part", "qwen3")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    with safe_open(folder / "model.safetensors", "pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118  # safe_open is not a mapping
            value = tensors.get_tensor(name)
            if value.ndim == 1:
                writer.add_tensor(gguf_name(name), value.float().numpy())
            else:
                raw = value.view(torch.uint8).numpy()
                writer.add_tensor(gguf_name(name), raw, raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    Path(str(target) + ".part").rename(target)
    return target


def gguf_name(name: str) -> str:
    """llama.cpp's name of a Qwen3 tensor."""
    stem = name.removeprefix("model.").removesuffix(".weight")
    fixed = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}
    if stem in fixed:
        return f"{fixed[stem]}.weight"
    _, index, part = stem.split(".", 2)
    return f"blk.{index}.{NAMES[part]}.weight"
