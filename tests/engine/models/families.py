"""Small random checkpoints made with the reference implementation, which is their oracle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3_5ForCausalLM,
    Qwen3_5MoeForCausalLM,
    Qwen3_5MoeTextConfig,
    Qwen3_5TextConfig,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    Qwen3NextConfig,
    Qwen3NextForCausalLM,
)

from helexa.engine.models.model import Model

CLASSES: dict[str, tuple[Any, Any]] = {
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen3_moe": (Qwen3MoeConfig, Qwen3MoeForCausalLM),
    "qwen3_next": (Qwen3NextConfig, Qwen3NextForCausalLM),
    "qwen3_5": (Qwen3_5TextConfig, Qwen3_5ForCausalLM),
    "qwen3_5_moe": (Qwen3_5MoeTextConfig, Qwen3_5MoeForCausalLM),
}
SHAPE = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "initializer_range": 0.1,
}
OF_KIND: dict[str, dict[str, Any]] = {
    "qwen3_moe": {"num_experts": 16, "num_experts_per_tok": 4, "moe_intermediate_size": 32},
}
"""What only some kinds have."""


DELTA = {
    "num_hidden_layers": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_conv_kernel_dim": 4,
    "layer_types": None,
}
HYBRID_ROPE = {"partial_rotary_factor": 0.25, "mrope_section": [2, 1, 1], "mrope_interleaved": True}
EXPERTS = {
    "num_experts": 16,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
}


@dataclass(frozen=True)
class Reference:
    """A checkpoint on disk and the reference model it was saved from."""

    folder: Path
    model: Any

    def logits(self, ids: list[int]) -> Tensor:
        """[T, V] float32, by eager attention over the whole prompt at once."""
        with torch.no_grad():
            logits: Tensor = self.model(torch.tensor([ids])).logits[0].float()
        return logits

    def gaps(self, ids: list[int]) -> Tensor:
        """By how much routers' last chosen scores pass the first that are not, at the closest: [T].

        Rounding decides between scores that are closer than its errors: two correct models differ.
        Infinite without routers.
        """
        if not hasattr(self.model.config, "num_experts_per_tok"):
            return torch.full((len(ids),), torch.inf)
        with torch.no_grad():
            scores = self.model(torch.tensor([ids]), output_router_logits=True).router_logits
        k = self.model.config.num_experts_per_tok
        best = [found.topk(k + 1, -1).values for found in scores]
        return torch.stack([row[:, k - 1] - row[:, k] for row in best]).amin(0)

    def smallest_gap(self, ids: list[int]) -> float:
        """The smallest of `gaps`."""
        return self.gaps(ids).min().item()

    def greedy(self, ids: list[int], count: int) -> list[int]:
        """The continuation that `generate` finds."""
        with torch.no_grad():
            out = self.model.generate(
                torch.tensor([ids]),
                attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                max_new_tokens=count,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
            )
        return out[0, len(ids) :].tolist()


@dataclass(frozen=True)
class Family:
    """A config: the family's defaults with some fields replaced."""

    name: str
    kind: str = "qwen3"
    fields: Mapping[str, Any] = field(default_factory=dict)
    theta: float = 1e6
    rope: Mapping[str, Any] = field(default_factory=dict)
    shards: int = 1
    dtype: torch.dtype = torch.float32
    seed: int = 92

    def save(self, folder: Path) -> Reference:
        """Draw the weights (always the same ones) and save them."""
        config_class, model_class = CLASSES[self.kind]
        rope = {"rope_type": "default", "rope_theta": self.theta, **self.rope}
        config = config_class(
            **{**SHAPE, **OF_KIND.get(self.kind, {}), **self.fields},
            rope_parameters=rope,
            attn_implementation="eager",
        )
        torch.manual_seed(self.seed)
        model = model_class(config).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("dt_bias"):
                    parameter.add_(torch.randn_like(parameter))
                elif "norm" in name or name.endswith("bias"):
                    parameter.add_(torch.randn_like(parameter) * 0.1)
        model.to(self.dtype)
        nbytes = sum(p.nbytes for p in model.parameters())
        limit = {"max_shard_size": nbytes // self.shards} if self.shards > 1 else {}
        model.save_pretrained(folder, **limit)
        return Reference(folder, model)


def hybrid(name: str, kind: str = "qwen3_5", **fields: Any) -> Family:
    """A family with layers of the gated delta rule, with experts if the kind has them."""
    experts = {} if kind == "qwen3_5" else EXPERTS
    rope = HYBRID_ROPE if kind != "qwen3_next" else {"partial_rotary_factor": 0.25}
    return Family(name, kind, {**DELTA, **experts, **fields}, theta=1e7, rope=rope)


def save_stacked(reference: Reference, folder: Path) -> Path:
    """The same checkpoint with the experts of a layer in two tensors, and a file per layer."""
    files: dict[str, dict[str, Tensor]] = {}
    for name, tensor in reference.model.state_dict().items():
        layer = name.split(".")[2] if name.startswith("model.layers.") else "rest"
        files.setdefault(f"{layer}.safetensors", {})[name] = tensor.contiguous()
    reference.model.config.save_pretrained(folder)
    for file, tensors in files.items():
        save_file(tensors, folder / file)
    places = {name: file for file, tensors in files.items() for name in tensors}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return folder


def prompt(length: int, vocab: int = 512) -> list[int]:
    """The token ids all parity tests run on."""
    return [(7 * i + 3) % vocab for i in range(length)]


def run_chunks(model: Model, ids: list[int], size: int, blocks: list[int]) -> Tensor:
    """Logits at every position [T, V], computed ``size`` tokens at a time over these blocks."""
    cache = model.new_cache(max(blocks) + 1)
    rows = []
    with torch.inference_mode():
        for start in range(0, len(ids), size):
            part = (ids[start : start + size], start, blocks, True)
            rows.append(model.logits(model(model.batch([part], 16), cache)))
    return torch.cat(rows)


def scattered(tokens: int) -> list[int]:
    """Blocks for so many tokens, no two of them neighbours in order."""
    count = -(-tokens // 16)
    return [*range(1, count, 2), *range(0, count, 2)][::-1]


def worst(ours: Tensor, reference: Tensor) -> float:
    """The largest absolute difference; infinite if shapes differ or anything is not finite."""
    if ours.shape != reference.shape or not ours.isfinite().all():
        return float("inf")
    return (ours - reference).abs().max().item()


def cosine(ours: Tensor, reference: Tensor) -> float:
    """The lowest cosine similarity of any position's logits."""
    return torch.cosine_similarity(ours, reference, dim=-1).min().item()
