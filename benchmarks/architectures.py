"""Checkpoints of every kind of layer, with random weights, made on the spot.

Dense or with experts, and with attention in each layer or in each fourth behind three of the gated
delta rule. Keys and values of 32k tokens are a few percent of a dense model's weights, as they are
in the large hybrids that people run; in small ones they would be most of what a step reads.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

ARCHITECTURES = {
    "dense": "qwen3",
    "MoE": "qwen3_moe",
    "hybrid dense": "qwen3_5_text",
    "hybrid MoE": "qwen3_5_moe_text",
}
SIZES: dict[str, dict[str, int]] = {
    "small": {"hidden": 1024, "middle": 3584, "layers": 8, "vocab": 8192, "expert": 448},
    "tiny": {"hidden": 128, "middle": 256, "layers": 4, "vocab": 1024, "expert": 64},
}
HEADS, HEAD_DIM = 8, 64
EXPERTS, CHOSEN = 16, 4
KEY_HEADS, VALUE_HEADS, DELTA_DIM, KERNEL = 4, 8, 128, 4
FULL_EVERY = 4


def make_architecture(name: str, size: str, folder: Path) -> Path:
    """Write a tied checkpoint in bfloat16 into ``folder``; an existing one is kept."""
    target = folder / f"{name.replace(' ', '-').lower()}-{size}"
    done = target / "config.json"
    if done.is_file():
        return target
    target.mkdir(parents=True, exist_ok=True)
    kind, sizes = ARCHITECTURES[name], SIZES[size]
    noise = torch.Generator().manual_seed(0)
    tensors = {
        place: (torch.randn(shape, generator=noise) * 0.02).bfloat16()
        for place, shape in shapes(kind, sizes).items()
    }
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    done.write_text(json.dumps(config(kind, sizes), indent=2))
    return target


def config(kind: str, sizes: dict[str, int]) -> dict[str, Any]:
    hybrid = {
        "linear_num_key_heads": KEY_HEADS,
        "linear_num_value_heads": VALUE_HEADS,
        "linear_key_head_dim": DELTA_DIM,
        "linear_value_head_dim": DELTA_DIM,
        "linear_conv_kernel_dim": KERNEL,
        "full_attention_interval": FULL_EVERY,
    }
    experts = {
        "num_experts": EXPERTS,
        "num_experts_per_tok": CHOSEN,
        "moe_intermediate_size": sizes["expert"],
        "shared_expert_intermediate_size": sizes["expert"] if "3_5" in kind else 0,
    }
    rope = {"rope_theta": 1e6, "partial_rotary_factor": 0.25, "mrope_section": [3, 3, 2]}
    return {
        "model_type": kind,
        "vocab_size": sizes["vocab"],
        "hidden_size": sizes["hidden"],
        "intermediate_size": sizes["middle"],
        "num_hidden_layers": sizes["layers"],
        "num_attention_heads": HEADS,
        "num_key_value_heads": 1,
        "head_dim": HEAD_DIM,
        "max_position_embeddings": 65536,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        **(hybrid if "3_5" in kind else {}),
        **(experts if "moe" in kind else {}),
        "rope_parameters": {"rope_type": "default", **(rope if "3_5" in kind else {})},
    }


def shapes(kind: str, sizes: dict[str, int]) -> dict[str, tuple[int, ...]]:
    """Every tensor's, by name."""
    hidden = sizes["hidden"]
    found: dict[str, tuple[int, ...]] = {
        "embed_tokens.weight": (sizes["vocab"], hidden),
        "norm.weight": (hidden,),
    }
    for index in range(sizes["layers"]):
        full = "3_5" not in kind or (index + 1) % FULL_EVERY == 0
        layer = {"input_layernorm.weight": (hidden,), "post_attention_layernorm.weight": (hidden,)}
        layer |= attention(hidden, 2 if "3_5" in kind else 1) if full else delta(hidden)
        layer |= (
            experts(sizes, "3_5" in kind) if "moe" in kind else mlp("", hidden, sizes["middle"])
        )
        found |= {f"layers.{index}.{name}": shape for name, shape in layer.items()}
    return {f"model.{name}": shape for name, shape in found.items()}


def attention(hidden: int, each: int) -> dict[str, tuple[int, ...]]:
    """``each`` is 2 where queries come with gates."""
    return {
        "self_attn.q_proj.weight": (each * HEADS * HEAD_DIM, hidden),
        "self_attn.k_proj.weight": (HEAD_DIM, hidden),
        "self_attn.v_proj.weight": (HEAD_DIM, hidden),
        "self_attn.o_proj.weight": (hidden, HEADS * HEAD_DIM),
        "self_attn.q_norm.weight": (HEAD_DIM,),
        "self_attn.k_norm.weight": (HEAD_DIM,),
    }


def delta(hidden: int) -> dict[str, tuple[int, ...]]:
    values = VALUE_HEADS * DELTA_DIM
    channels = 2 * KEY_HEADS * DELTA_DIM + values
    made: dict[str, tuple[int, ...]] = {
        "in_proj_qkv.weight": (channels, hidden),
        "in_proj_z.weight": (values, hidden),
        "in_proj_b.weight": (VALUE_HEADS, hidden),
        "in_proj_a.weight": (VALUE_HEADS, hidden),
        "conv1d.weight": (channels, 1, KERNEL),
        "dt_bias": (VALUE_HEADS,),
        "A_log": (VALUE_HEADS,),
        "norm.weight": (DELTA_DIM,),
        "out_proj.weight": (hidden, values),
    }
    return {f"linear_attn.{name}": shape for name, shape in made.items()}


def mlp(place: str, hidden: int, middle: int) -> dict[str, tuple[int, ...]]:
    return {
        f"mlp.{place}gate_proj.weight": (middle, hidden),
        f"mlp.{place}up_proj.weight": (middle, hidden),
        f"mlp.{place}down_proj.weight": (hidden, middle),
    }


def experts(sizes: dict[str, int], shared: bool) -> dict[str, tuple[int, ...]]:
    hidden, size = sizes["hidden"], sizes["expert"]
    made: dict[str, tuple[int, ...]] = {
        "mlp.gate.weight": (EXPERTS, hidden),
        "mlp.experts.gate_up_proj": (EXPERTS, 2 * size, hidden),
        "mlp.experts.down_proj": (EXPERTS, hidden, size),
    }
    if shared:
        made |= mlp("shared_expert.", hidden, size)
        made["mlp.shared_expert_gate.weight"] = (1, hidden)
    return made
