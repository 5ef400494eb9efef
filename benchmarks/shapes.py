"""Checkpoints with random weights and real shapes, made on the spot."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file

# The shapes of published models; the weights are noise, which costs the same time.
SHAPES: dict[str, dict[str, int]] = {
    "0.6b": {
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
    },
    "1.7b": {
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
    },
    "8b": {
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
    },
    "six-layers": {
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 6,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 8192,
    },
    "0.6b-seventh": {
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 4,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 21696,
    },
    "small": {
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "vocab_size": 8192,
    },
}
UNTIED = ("8b",)
MAX_POSITIONS = 40960


def make_checkpoint(
    shape: str, folder: Path, dtype: torch.dtype = torch.bfloat16, files: int = 1
) -> Path:
    """Write a Qwen3 checkpoint of a named shape into ``folder``; an existing one is kept."""
    target = folder / f"qwen3-{shape}-{str(dtype).removeprefix('torch.')}"
    done = target / "config.json"
    if done.is_file():
        return target
    target.mkdir(parents=True, exist_ok=True)
    _save(_tensors(shape, dtype), target, files)
    done.write_text(json.dumps(config(shape, dtype), indent=2))
    return target


def _save(tensors: dict[str, torch.Tensor], folder: Path, files: int) -> None:
    """Spread the tensors evenly over so many files."""
    if files == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    places: dict[str, str] = {}
    share, done = sum(tensor.nbytes for tensor in tensors.values()) / files, 0
    for name, tensor in tensors.items():
        number = min(files, int(done / share) + 1)
        places[name] = f"model-{number:05}-of-{files:05}.safetensors"
        done += tensor.nbytes
    for file in set(places.values()):
        part = {name: tensors[name] for name, place in places.items() if place == file}
        save_file(part, folder / file, metadata={"format": "pt"})
    index = {"weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def config(shape: str, dtype: torch.dtype) -> dict[str, object]:
    """What the config.json of a named shape says."""
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        **SHAPES[shape],
        "max_position_embeddings": MAX_POSITIONS,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000,
        "hidden_act": "silu",
        "attention_bias": False,
        "tie_word_embeddings": shape not in UNTIED,
        "torch_dtype": str(dtype).removeprefix("torch."),
    }


def tensor_shapes(shape: str) -> dict[str, tuple[int, ...]]:
    """The tensors of a named shape: matrices, and the weights of norms, which have one axis."""
    sizes = SHAPES[shape]
    hidden, middle, head = sizes["hidden_size"], sizes["intermediate_size"], sizes["head_dim"]
    queries = sizes["num_attention_heads"] * head
    keys = sizes["num_key_value_heads"] * head
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (sizes["vocab_size"], hidden),
        "model.norm.weight": (hidden,),
    }
    layer: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
        "self_attn.q_proj.weight": (queries, hidden),
        "self_attn.k_proj.weight": (keys, hidden),
        "self_attn.v_proj.weight": (keys, hidden),
        "self_attn.o_proj.weight": (hidden, queries),
        "self_attn.q_norm.weight": (head,),
        "self_attn.k_norm.weight": (head,),
        "mlp.gate_proj.weight": (middle, hidden),
        "mlp.up_proj.weight": (middle, hidden),
        "mlp.down_proj.weight": (hidden, middle),
    }
    for index in range(sizes["num_hidden_layers"]):
        shapes |= {f"model.layers.{index}.{name}": size for name, size in layer.items()}
    if shape in UNTIED:
        shapes["lm_head.weight"] = (sizes["vocab_size"], hidden)
    return shapes


def step_bytes(shape: str, context: float) -> int:
    """What a decode step behind ``context`` tokens has to read, all of it in 16 bits.

    Each matrix, the output layer among them, keys and values; of the embedding one row, so nothing.
    """
    sizes, tensors = SHAPES[shape], tensor_shapes(shape)
    numbers = sum(
        math.prod(size)
        for name, size in tensors.items()
        if shape not in UNTIED or name != "model.embed_tokens.weight"
    )
    pairs = sizes["num_hidden_layers"] * sizes["num_key_value_heads"] * sizes["head_dim"]
    return round(2 * (numbers + 2 * pairs * context))


def _tensors(shape: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: (torch.randn(size, generator=generator) * 0.02).to(dtype)
        if len(size) == 2
        else torch.ones(size, dtype=dtype)
        for name, size in tensor_shapes(shape).items()
    }
