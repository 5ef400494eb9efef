"""A model's config from the metadata and the tensors of its GGUF file.

Source of the keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from helexa.engine.checkpoint.gguf_names import EMBEDDING, OUTPUT
from helexa.engine.config import ModelConfig, read_decoder
from helexa.engine.fields import Fields
from helexa.engine.hybrid_config import HYBRIDS
from helexa.errors import CheckpointError, UnsupportedModel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from helexa.engine.checkpoint.gguf_file import GGUFHead

ARCHITECTURES = MappingProxyType(
    {
        "llama": "llama",
        "qwen3": "qwen3",
        "qwen3moe": "qwen3_moe",
        "qwen3next": "qwen3_next",
        "qwen35": "qwen3_5",
        "qwen35moe": "qwen3_5_moe",
    }
)
"""`general.architecture` → the `model_type` of the same model in Hugging Face's layout."""
TILED = frozenset({"qwen35", "qwen35moe"})
"""Whose value heads are stored such that head j belongs to key head j mod (number of those)."""
SOFTMAX = 1
"""What the shares of experts are made with, by `expert_gating_func`."""
END_IDS = tuple(f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom"))
"""The ends of a text, of a turn, and of a message that a tool is to answer."""


def gguf_config(file: GGUFHead, divisors: tuple[float, ...] = ()) -> ModelConfig:
    """The config of a model; ``divisors`` are those of its rotary frequencies, if it has some.

    Raises UnsupportedModel for what is not implemented, CheckpointError for metadata that are
    absent or make no sense; both name the file and the key.
    """
    fields = Fields(f"the metadata of {file.path}", file.metadata)
    architecture = read_architecture(fields)
    refuse_others(fields, architecture)
    raw = {
        "architectures": [],
        **sizes(fields, architecture, file),
        **mixture(fields, architecture, file),
        **linear_attention(fields, architecture, file),
        **rope(fields, architecture),
        **tokens(fields),
    }
    values = {name: value for name, value in raw.items() if value is not None}
    model_type = ARCHITECTURES[architecture]
    config = read_decoder(Fields(fields.place, values), model_type)
    if len(divisors) not in (0, config.rope.rotary_dim(config.head_dim) // 2):
        raise CheckpointError(
            f"{file.path} has {len(divisors)} divisors of rotary frequencies, for heads of "
            f"{config.head_dim} dims",
            hint="metadata and tensors do not belong together; fetch the model again",
        )
    stretch = fields.positive(f"{architecture}.rope.scaling.attn_factor", 1.0)
    delta = config.delta and replace(config.delta, tiled=architecture in TILED)
    return replace(
        config,
        delta=delta,
        zero_centred_norms=False,  # stored as 1 + weight
        rope=replace(
            config.rope,
            divisors=divisors,
            attention_factor=config.rope.attention_factor * stretch,
        ),
    )


def read_architecture(fields: Fields) -> str:
    """`general.architecture`, one of ARCHITECTURES."""
    name = fields.text("general.architecture")
    if name not in ARCHITECTURES:
        raise UnsupportedModel(
            f"unsupported GGUF architecture {name!r}; supported: {', '.join(ARCHITECTURES)}"
        )
    return name


def refuse_others(fields: Fields, architecture: str) -> None:
    """Raises UnsupportedModel for keys that ask for other arithmetic than is done here."""
    at = f"{architecture}."
    usual = {
        f"{at}attention.sliding_window": (0,),
        f"{at}attention.causal": (True,),
        f"{at}expert_gating_func": (0, SOFTMAX),
        f"{at}expert_weights_scale": (0, 1),
    }
    for name, values in usual.items():
        if name in fields and fields.get(name) not in values:
            raise UnsupportedModel(f"{fields.place}: unsupported `{name}` {fields.get(name)!r}")


def num_layers(fields: Fields, architecture: str, file: GGUFHead) -> int:
    """Layers without those that predict further tokens, all of which the file must have."""
    surplus = fields.integer(f"{architecture}.nextn_predict_layers", 0, at_least=0)
    count = fields.integer(f"{architecture}.block_count") - surplus
    if count < 1:
        raise fields.wrong(f"{architecture}.block_count", f"more than the {surplus} of nextn")
    if f"blk.{count - 1}.attn_norm.weight" not in file.tensors:
        raise fields.wrong(f"{architecture}.block_count", "the number of the file's blocks")
    return count


def sizes(fields: Fields, architecture: str, file: GGUFHead) -> dict[str, Any]:
    """What every model has, under the names of a config.json."""
    at = f"{architecture}."
    embedding = file.tensors.get(EMBEDDING)
    if embedding is None or len(embedding.shape) != 2:
        raise CheckpointError(
            f"tensor {EMBEDDING!r} is missing from {file.path}, or is no matrix",
            hint="the file holds no whole language model; fetch another",
        )
    heads, head_dim = heads_of(fields, architecture), head_size(fields, architecture)
    if fields.integer(f"{at}attention.value_length", head_dim) != head_dim:
        raise UnsupportedModel(f"{fields.place}: values have other sizes than keys")
    return {
        "vocab_size": embedding.shape[0],
        "hidden_size": fields.integer(f"{at}embedding_length"),
        "intermediate_size": uniform(fields, f"{at}feed_forward_length", 0) or None,
        "num_hidden_layers": num_layers(fields, architecture, file),
        "num_attention_heads": heads,
        "num_key_value_heads": uniform(fields, f"{at}attention.head_count_kv", heads),
        "head_dim": head_dim,
        "max_position_embeddings": fields.integer(f"{at}context_length"),
        "rms_norm_eps": fields.positive(f"{at}attention.layer_norm_rms_epsilon"),
        "tie_word_embeddings": OUTPUT not in file.tensors,
        "attention_bias": "blk.0.attn_q.bias" in file.tensors,
        "mlp_bias": "blk.0.ffn_gate.bias" in file.tensors,
    }


def heads_of(fields: Fields, architecture: str) -> int:
    """Query heads."""
    return uniform(fields, f"{architecture}.attention.head_count")


def head_size(fields: Fields, architecture: str) -> int:
    """Dims of a head."""
    hidden = fields.integer(f"{architecture}.embedding_length")
    share = max(1, hidden // heads_of(fields, architecture))
    return fields.integer(f"{architecture}.attention.key_length", share)


def uniform(fields: Fields, name: str, default: int | None = None) -> int:
    """A size: one number, or a list of one per layer, 0 where a layer has no such thing."""
    counts = set(per_layer(fields, name)) - {0}
    if not counts:
        return fields.integer(name, default, at_least=0 if default == 0 else 1)
    if len(counts) > 1:
        raise fields.wrong(name, "the same in all layers that have it")
    return Fields(fields.place, {name: counts.pop()}).integer(name)


def per_layer(fields: Fields, name: str) -> list[int]:
    """A list of numbers, empty where there is no list."""
    value = fields.get(name)
    if not isinstance(value, list):
        return []
    if not all(isinstance(item, int) for item in value):
        raise fields.wrong(name, "a number, or a list of them")
    return value


def mixture(fields: Fields, architecture: str, file: GGUFHead) -> dict[str, Any]:
    """What mixtures of experts have, under the names of a config.json."""
    at = f"{architecture}.expert_"
    experts = fields.integer(f"{at}count", 0, at_least=0)
    if not experts:
        return {}
    if not ARCHITECTURES[architecture].endswith(("_moe", "_next")):
        raise UnsupportedModel(
            f"{fields.place}: `{at}count` is {experts}, an {architecture!r} with experts",
            hint="supported with experts: qwen3moe, qwen3next, qwen35moe",
        )
    layers = range(num_layers(fields, architecture, file))
    routers = {i for i in layers if f"blk.{i}.ffn_gate_inp.weight" in file.tensors}
    return {
        "num_experts": experts,
        "num_experts_per_tok": fields.integer(f"{at}used_count"),
        "moe_intermediate_size": fields.integer(f"{at}feed_forward_length"),
        "shared_expert_intermediate_size": fields.integer(
            f"{at}shared_feed_forward_length", 0, at_least=0
        ),
        "norm_topk_prob": fields.flag(f"{at}weights_norm", True),
        "mlp_only_layers": [i for i in layers if i not in routers],
    }


def linear_attention(fields: Fields, architecture: str, file: GGUFHead) -> dict[str, Any]:
    """What hybrid models have, under the names of a config.json."""
    if ARCHITECTURES[architecture] not in HYBRIDS:
        return {}
    at = f"{architecture}."
    values, inner = (fields.integer(f"{at}ssm.{name}") for name in ("time_step_rank", "inner_size"))
    if inner % values:
        raise fields.wrong(f"{at}ssm.inner_size", f"a multiple of the {values} value heads")
    kv_heads = per_layer(fields, f"{at}attention.head_count_kv")
    kinds = None
    if 0 in kv_heads:
        given = kv_heads[: num_layers(fields, architecture, file)]
        kinds = ["full_attention" if count else "linear_attention" for count in given]
    return {
        "layer_types": kinds,
        "full_attention_interval": fields.integer(f"{at}full_attention_interval", 4),
        "linear_num_key_heads": fields.integer(f"{at}ssm.group_count"),
        "linear_num_value_heads": values,
        "linear_key_head_dim": fields.integer(f"{at}ssm.state_size"),
        "linear_value_head_dim": inner // values,
        "linear_conv_kernel_dim": fields.integer(f"{at}ssm.conv_kernel"),
    }


def rope(fields: Fields, architecture: str) -> dict[str, Any]:
    """The rotary embedding, as the `rope_parameters` of a config.json."""
    at = f"{architecture}.rope."
    head_dim = head_size(fields, architecture)
    rotary = fields.integer(f"{at}dimension_count", head_dim)
    found: dict[str, Any] = {
        "rope_theta": fields.positive(f"{at}freq_base", 10000.0),
        "partial_rotary_factor": share(rotary, head_dim),
        "rope_type": "default",
    }
    kind = fields.text(f"{at}scaling.type", "none")
    factor = fields.positive(f"{at}scaling.factor", 1.0)
    if kind == "none" and f"{at}scale_linear" in fields:  # how old files say it
        kind, factor = "linear", fields.positive(f"{at}scale_linear")
    if kind != "none" and factor != 1.0:
        found |= {"rope_type": kind, "factor": factor, **yarn(fields, f"{at}scaling.")}
    sections = fields.get(f"{at}dimension_sections")
    if isinstance(sections, list):
        found["mrope_section"] = sections[:3]
    return {"rope_parameters": found}


def yarn(fields: Fields, at: str) -> Mapping[str, Any]:
    """What belongs to yarn alone, other types pass over it."""
    given = {
        "original_max_position_embeddings": fields.get(f"{at}original_context_length"),
        "beta_fast": fields.get(f"{at}yarn_beta_fast"),
        "beta_slow": fields.get(f"{at}yarn_beta_slow"),
    }
    return {name: value for name, value in given.items() if value is not None}


def share(rotary: int, head_dim: int) -> float:
    """The part of a head that rotates, such that ``int`` of its product with the size is exact."""
    part = rotary / head_dim
    return part if int(head_dim * part) == rotary else (rotary + 0.5) / head_dim


def tokens(fields: Fields) -> dict[str, Any]:
    """The ids that begin and end a text."""
    ends = [fields.integer(name, at_least=0) for name in END_IDS if name in fields]
    return {"eos_token_id": ends, "bos_token_id": fields.get("tokenizer.ggml.bos_token_id")}
