"""What a model is (`ModelConfig`) and how it is to be run (`EngineConfig`)."""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from helexa.engine.fields import Fields
from helexa.engine.hybrid_config import (
    HYBRIDS,
    DeltaConfig,
    LayerType,
    read_delta,
    read_layer_types,
)
from helexa.engine.memory import ACTIVATION_HEADROOM_MB, FLOOR_MB
from helexa.engine.moe_config import MoEConfig, read_moe
from helexa.engine.quantization_config import QuantizationConfig, read_quantization
from helexa.engine.rope_config import RopeConfig, read_rope
from helexa.errors import CheckpointError, InvalidRequest, UnsupportedModel

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["SUPPORTED", "EngineConfig", "ModelConfig", "RopeConfig", "switches", "uses_templates"]

SUPPORTED = ("llama", "qwen3", "qwen3_5", "qwen3_5_moe", "qwen3_moe", "qwen3_next")
"""The `model_type` values that can be built."""
TEXT_ONLY = {"qwen3_5_text": "qwen3_5", "qwen3_5_moe_text": "qwen3_5_moe"}
"""Types of configs that are the `text_config` of another, without a vision tower beside it."""
HEAD_DIMS = {"qwen3": 128, **dict.fromkeys(HYBRIDS, 256)}
"""What a head has by default, where that is no share of the hidden size."""

DTYPES = ("auto", "float32", "bfloat16", "float16")
SWITCHES = frozenset(
    {
        "flash_attn",
        "flash_decode",
        "gdn_chunked",
        "gdn_fused",
        "moe_fused",
        "mrope",
        "fused_ops",
        "fused_rows",
        "compile",
        "cuda_graphs",
        "look_ahead",
        "quant_kernels",
        "bf16_products",
        "large_pages",
        "batching",
        "prefix_cache",
    }
)
IDLE_SWITCHES = frozenset({"mrope"})
"""Those of what is not there yet: `mrope` is for images. They are accepted and change nothing."""
LEGACY_SWITCHES = {
    "NEURON_FLASH_ATTN": ("flash_attn", ("0", "false")),
    "NEURON_GDN_CHUNKED": ("gdn_chunked", ("0", "false")),
    "NEURON_MOE_FUSED": ("moe_fused", ("0", "false")),
    "NEURON_MROPE": ("mrope", ("0", "false", "no", "off")),
    "NEURON_BATCHING": ("batching", ("0", "false")),
}
DRAFTERS = ("lookup",)
"""Who may guess tokens: ``lookup`` finds them in the prompt and the answer so far."""
OFF = ("false", "0", "no", "off")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """A decoder's shape and constants, as its config.json states them.

    Sizes are element counts, lengths are tokens. ``qk_norm``, ``gated_attention`` (each head's
    query comes with a gate for its output) and ``zero_centred_norms`` (they multiply by 1 + weight)
    follow from the family; ``intermediate_size`` is 0 where no layer has a dense MLP.
    ``quantization`` says how matrices are stored, None: plainly; ``torch_dtype`` is the format the
    checkpoint claims to be in; ``raw`` is the whole file.
    """

    def __deepcopy__(self, memo: object) -> ModelConfig:
        return self  # nothing of it can change

    model_type: str
    architectures: tuple[str, ...]
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    tie_word_embeddings: bool
    attention_bias: bool
    mlp_bias: bool
    qk_norm: bool
    gated_attention: bool
    zero_centred_norms: bool
    layer_types: tuple[LayerType, ...]
    delta: DeltaConfig | None
    moe: MoEConfig | None
    rope: RopeConfig
    torch_dtype: str | None
    eos_token_ids: tuple[int, ...]
    bos_token_id: int | None
    quantization: QuantizationConfig | None = None
    raw: Mapping[str, Any] = field(repr=False, compare=False)

    @property
    def longest_sequence(self) -> int:
        """The most tokens a sequence may have."""
        return self.rope.longest_sequence(self.max_position_embeddings)

    def kv_bytes_per_token(self, dtype_bytes: int, world_size: int = 1) -> int:
        """Bytes of keys and values one token takes on each of ``world_size`` cards."""
        heads = max(1, self.num_key_value_heads // world_size)
        return 2 * self.num_attention_layers * heads * self.head_dim * dtype_bytes

    @property
    def num_attention_layers(self) -> int:
        """Layers that keep keys and values."""
        return self.layer_types.count("full_attention")

    def state_bytes(self, conv_bytes: int) -> int:
        """Bytes of a sequence's recurrent state, however long it is; 0 without linear layers."""
        if self.delta is None:
            return 0
        return self.layer_types.count("linear_attention") * self.delta.state_bytes(conv_bytes)

    @classmethod
    def from_file(cls, path: str | Path, source: str | None = None) -> ModelConfig:
        """Read a config.json; ``source`` names the model in messages, else its folder does.

        Raises CheckpointError for an unreadable or malformed file, UnsupportedModel for one that
        asks for what is not implemented.
        """
        path = Path(path)
        source = source or str(path.parent)
        try:
            raw = json.loads(path.read_text("utf-8"))
        except OSError as error:
            raise CheckpointError(
                f"cannot read {path}: {error.strerror or error}",
                hint="a model folder needs a config.json",
            ) from error
        except (ValueError, RecursionError) as error:
            raise CheckpointError(
                f"{path.name} of {source!r} is not valid JSON: {error}",
                hint="correct the file or fetch the model again",
            ) from error
        return cls.from_dict(raw, source)

    @classmethod
    def from_dict(cls, raw: Any, source: str) -> ModelConfig:
        """Build from the parsed config.json of the model ``source``; errors as in from_file."""
        place = f"config.json of {source!r}"
        if not isinstance(raw, dict):
            raise CheckpointError(
                f"{place} must hold a JSON object, not {type(raw).__name__}",
                hint="correct the file or fetch the model again",
            )
        top = Fields(place, raw)
        model_type = read_model_type(top, source)
        config = text_fields(top)
        refuse_unsupported(config)
        return read_decoder(config, model_type)


def text_fields(config: Fields) -> Fields:
    """The language model's part of a config, completed by what only the whole has."""
    if "text_config" not in config:
        return config
    nested = config.section("text_config")
    shared = ("architectures", "quantization_config", "dtype", "torch_dtype", "eos_token_id")
    values = {name: config.get(name) for name in (*shared, "bos_token_id") if name in config}
    values |= {name: value for name, value in nested.values.items() if value is not None}
    if "tie_word_embeddings" in config:  # the outer one counts
        values["tie_word_embeddings"] = config.get("tie_word_embeddings")
    return Fields(nested.place, values)


def read_model_type(config: Fields, source: str) -> str:
    """The `model_type`, one of SUPPORTED."""
    if "model_type" not in config:
        raise UnsupportedModel(
            f"{config.place}: missing `model_type`", hint=f"supported: [{', '.join(SUPPORTED)}]"
        )
    claimed = config.text("model_type")
    model_type = TEXT_ONLY.get(claimed, claimed)
    if model_type == "qwen3_5" and config.section("text_config").get("num_experts"):
        return "qwen3_5_moe"
    if model_type not in SUPPORTED:
        architectures = ", ".join(config.texts("architectures"))
        raise UnsupportedModel(
            f"unsupported model_type {model_type!r} for {source!r} "
            f"(architectures=[{architectures}]); supported: [{', '.join(SUPPORTED)}]"
        )
    return model_type


def refuse_unsupported(config: Fields) -> None:
    """Raise UnsupportedModel for features that would silently change the output."""
    activation = config.text("hidden_act", "silu")
    if activation != "silu":
        raise UnsupportedModel(
            f"{config.place}: unsupported `hidden_act` {activation!r}", hint="supported: silu"
        )
    if config.get("attn_output_gate") is False:
        raise UnsupportedModel(
            f"{config.place}: `attn_output_gate` is false", hint="supported: gated attention"
        )
    layers = config.integer("num_hidden_layers")
    if not config.texts("layer_types") and slides(config, layers):
        raise UnsupportedModel(
            f"{config.place}: `use_sliding_window` is true",
            hint="sliding-window attention is not supported",
        )


def slides(config: Fields, layers: int) -> bool:
    """Whether any layer has a sliding window, by the keys that older configs use."""
    if not config.flag("use_sliding_window", False):
        return False
    windowless = "sliding_window" in config.values and config.get("sliding_window") is None
    return not windowless and config.integer("max_window_layers", 28, at_least=0) < layers


def read_decoder(config: Fields, model_type: str) -> ModelConfig:
    hidden, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    kv_heads = config.integer("num_key_value_heads", heads)
    if heads % kv_heads:
        raise config.wrong("num_key_value_heads", f"a divisor of `num_attention_heads` {heads}")
    head_dim = config.integer("head_dim", HEAD_DIMS.get(model_type, max(1, hidden // heads)))
    longest, layers = config.integer("max_position_embeddings"), config.integer("num_hidden_layers")
    hybrid = model_type in HYBRIDS
    kinds = read_layer_types(config, model_type, layers)
    moe = read_moe(config, model_type, layers)
    dense = moe is None or len(moe.layers) < layers
    bos = config.token_ids("bos_token_id")
    return ModelConfig(
        model_type=model_type,
        architectures=config.texts("architectures"),
        vocab_size=config.integer("vocab_size"),
        hidden_size=hidden,
        intermediate_size=config.integer("intermediate_size") if dense else 0,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        max_position_embeddings=longest,
        rms_norm_eps=config.positive("rms_norm_eps", 1e-6),
        tie_word_embeddings=config.flag("tie_word_embeddings", False),
        attention_bias=config.flag("attention_bias", False),
        mlp_bias=model_type == "llama" and config.flag("mlp_bias", False),
        qk_norm=model_type != "llama",
        gated_attention=hybrid,
        zero_centred_norms=hybrid,
        layer_types=kinds,
        delta=read_delta(config) if "linear_attention" in kinds else None,
        moe=moe,
        rope=read_rope(config, longest, head_dim, partial=0.25 if hybrid else 1.0),
        torch_dtype=config.text("dtype", config.text("torch_dtype", "")) or None,
        eos_token_ids=config.token_ids("eos_token_id"),
        bos_token_id=bos[0] if bos else None,
        quantization=read_quantization(config),
        raw=MappingProxyType(dict(config.values)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """How a model is run. Raises InvalidRequest naming the parameter that is wrong.

    ``*_mb`` are MiB, ``*_tokens``, ``max_context`` and ``block_size`` are tokens. None means:
    derived from the device and the model. ``headroom_mb`` and ``floor_mb`` are left free beside
    the weights and the cache. ``compile``: kernels are made for this CPU. ``drafter`` guesses
    tokens for requests that do not say whether they want that, at most ``draft_len`` at a time; 0:
    for none. Without one, recurrent models have no memory for it. ``disabled`` holds names of
    SWITCHES. ``dedicated``: the device is there for serving, so all free memory of a host counts,
    the prefix cache gets its MiB however small the model is, and a model without room for a KV
    cache is loaded all the same.
    """

    device: str = "auto"
    dtype: str = "auto"
    quant: str | None = None
    compile: bool = False
    max_batch: int = 8
    max_context: int | None = None
    kv_memory_mb: int | None = None
    kv_context_tokens: int = 32768
    headroom_mb: int = ACTIVATION_HEADROOM_MB
    floor_mb: int = FLOOR_MB
    block_size: int = 16
    prefill_chunk_tokens: int = 512
    prefix_cache: bool = True
    prefix_cache_mb: int = 1024
    max_entries: int = 8
    drafter: str | None = None
    draft_len: int = 4
    disabled: frozenset[str] = frozenset()
    dedicated: bool = False

    def __post_init__(self) -> None:
        for name in ("max_batch", "kv_context_tokens", "block_size", "prefill_chunk_tokens"):
            self.check_int(name, at_least=1)
        for name in ("headroom_mb", "floor_mb", "prefix_cache_mb", "max_entries", "draft_len"):
            self.check_int(name, at_least=0)
        for name, least in (("max_context", 2), ("kv_memory_mb", 1)):
            if getattr(self, name) is not None:
                self.check_int(name, at_least=least)
        for name in ("compile", "prefix_cache", "dedicated"):
            if not isinstance(getattr(self, name), bool):
                raise self.wrong(name, "True or False")
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", str(self.device)):
            raise self.wrong("device", "auto, cpu, mps, cuda or cuda:N")
        if self.dtype not in DTYPES:
            raise self.wrong("dtype", f"one of {', '.join(DTYPES)}")
        if self.quant is not None and not isinstance(self.quant, str):
            raise self.wrong("quant", "the name of a format, or None")
        if self.drafter is not None and self.drafter not in DRAFTERS:
            raise self.wrong("drafter", f"one of {', '.join(DRAFTERS)}, or None")
        unknown = sorted(set(self.disabled) - SWITCHES)
        if unknown:
            raise self.wrong("disabled", f"a set of switches ({', '.join(sorted(SWITCHES))})")

    @property
    def spare_states(self) -> int:
        """How many drafts a recurrent model can try at a time, each on a copy of a state."""
        return 1 if self.drafter is not None and self.draft_len else 0

    def check_int(self, name: str, *, at_least: int) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
            raise self.wrong(name, f"an integer of at least {at_least}")

    def wrong(self, name: str, wanted: str) -> InvalidRequest:
        return InvalidRequest(f"{name} must be {wanted}, not {getattr(self, name)!r}", param=name)


def switches(environ: Mapping[str, str]) -> frozenset[str]:
    """The features that the environment turns off; an unknown name only warns."""
    named = {name.strip() for name in environ.get("HELEXA_DISABLE", "").split(",")} - {""}
    for name in sorted(named - SWITCHES):
        warnings.warn(
            f"HELEXA_DISABLE: unknown switch {name!r}; known: {', '.join(sorted(SWITCHES))}",
            stacklevel=2,
        )
    legacy = {
        switch
        for variable, (switch, off) in LEGACY_SWITCHES.items()
        if environ.get(variable, "").strip().lower() in off
    }
    return frozenset((named & SWITCHES) | legacy)


def uses_templates(environ: Mapping[str, str]) -> bool:
    """Whether the environment lets chat templates be used: anything but an off word."""
    return environ.get("NEURON_USE_CHAT_TEMPLATE", "").strip().lower() not in OFF
