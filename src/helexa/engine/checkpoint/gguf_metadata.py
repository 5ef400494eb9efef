"""A model's config as the metadata of a GGUF file: the way back from `gguf_config`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from helexa.engine.checkpoint.gguf_config import ARCHITECTURES
from helexa.engine.hybrid_config import HYBRIDS
from helexa.engine.rope_config import yarn_scale
from helexa.errors import UnsupportedModel

if TYPE_CHECKING:
    from helexa.engine.checkpoint.gguf_writer import Value
    from helexa.engine.config import ModelConfig

NAMES = {model_type: architecture for architecture, model_type in ARCHITECTURES.items()}


def gguf_metadata(config: ModelConfig, name: str) -> dict[str, Value]:
    """What a GGUF file says of a model; ``name`` is shown to people.

    Raises UnsupportedModel for what the format cannot say.
    """
    at = NAMES[config.model_type]
    found: dict[str, Value] = {
        "general.architecture": at,
        "general.type": "model",
        "general.name": name,
        f"{at}.block_count": config.num_hidden_layers,
        f"{at}.context_length": config.max_position_embeddings,
        f"{at}.embedding_length": config.hidden_size,
        f"{at}.feed_forward_length": config.intermediate_size,
        f"{at}.attention.head_count": config.num_attention_heads,
        f"{at}.attention.head_count_kv": config.num_key_value_heads,
        f"{at}.attention.key_length": config.head_dim,
        f"{at}.attention.value_length": config.head_dim,
        f"{at}.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        f"{at}.vocab_size": config.vocab_size,
    }
    found |= rope(config, at) | experts(config, at) | linear_layers(config, at)
    if config.bos_token_id is not None:
        found["tokenizer.ggml.bos_token_id"] = config.bos_token_id
    return found


def rope(config: ModelConfig, at: str) -> dict[str, Value]:
    """The rotary embedding; what llama3 does to it stands in a tensor."""
    given = config.rope
    found: dict[str, Value] = {
        f"{at}.rope.freq_base": given.theta,
        f"{at}.rope.dimension_count": given.rotary_dim(config.head_dim),
    }
    if given.rope_type in ("linear", "yarn"):
        found[f"{at}.rope.scaling.type"] = given.rope_type
        found[f"{at}.rope.scaling.factor"] = given.factor
    if given.rope_type == "yarn":
        if not given.truncate:
            raise cannot_say("`truncate: false` of its yarn rope", at)
        default = yarn_scale(given.factor)
        found[f"{at}.rope.scaling.attn_factor"] = given.attention_factor / default
        length = given.original_max_position_embeddings
        found[f"{at}.rope.scaling.original_context_length"] = length
        found[f"{at}.rope.scaling.yarn_beta_fast"] = given.beta_fast
        found[f"{at}.rope.scaling.yarn_beta_slow"] = given.beta_slow
    if at in ("qwen35", "qwen35moe"):
        half = given.rotary_dim(config.head_dim) // 2
        sections = (config.raw.get("rope_parameters") or {}).get("mrope_section")
        third = half // 3
        found[f"{at}.rope.dimension_sections"] = [
            *(sections or (half - 2 * third, third, third)),
            0,
        ]
    return found


def experts(config: ModelConfig, at: str) -> dict[str, Value]:
    """Mixtures of experts. GGUF's readers renormalise the shares of those that are chosen."""
    moe = config.moe
    if moe is None:
        return {}
    if not moe.norm_topk_prob:
        raise cannot_say("`norm_topk_prob: false`", at)
    found: dict[str, Value] = {
        f"{at}.expert_count": moe.experts,
        f"{at}.expert_used_count": moe.top_k,
        f"{at}.expert_feed_forward_length": moe.size,
    }
    if moe.shared_size:
        found[f"{at}.expert_shared_feed_forward_length"] = moe.shared_size
    return found


def linear_layers(config: ModelConfig, at: str) -> dict[str, Value]:
    """Layers of the gated delta rule, and which layers those are."""
    delta = config.delta
    if delta is None:
        if config.model_type in HYBRIDS:
            raise cannot_say("`layer_types` without linear attention", at)
        return {}
    full = [i + 1 for i, kind in enumerate(config.layer_types) if kind == "full_attention"]
    every = full[0] if full else config.num_hidden_layers + 1
    if full != list(range(every, config.num_hidden_layers + 1, every)):
        raise cannot_say(f"`layer_types` with attention in the layers {full}", at)
    return {
        f"{at}.full_attention_interval": every,
        f"{at}.ssm.conv_kernel": delta.kernel,
        f"{at}.ssm.state_size": delta.key_dim,
        f"{at}.ssm.group_count": delta.key_heads,
        f"{at}.ssm.time_step_rank": delta.value_heads,
        f"{at}.ssm.inner_size": delta.value_size,
    }


def cannot_say(what: str, at: str) -> UnsupportedModel:
    """The error for what the format has no key for."""
    return UnsupportedModel(
        f"GGUF cannot say {what}, which this {at!r} has",
        hint="write a folder (a name without .gguf), or quantise at load: quant='q4_k'",
    )
