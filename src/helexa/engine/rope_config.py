"""What a checkpoint's config says about rotary position embeddings."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, cast, get_args

from helexa.engine.fields import Fields
from helexa.errors import UnsupportedModel

RopeType = Literal["default", "linear", "llama3", "yarn"]
FILLED_FROM_TOP = ("rope_theta", "partial_rotary_factor")


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary embedding parameters, with every default resolved.

    ``factor`` stretches positions (linear, llama3, yarn); the wavelength bounds belong to llama3,
    the betas, ``truncate`` and ``attention_factor`` (multiplies cos and sin) to yarn. ``divisors``,
    one per rotated pair, divide the frequencies of any type, if there are some: GGUF files state
    llama3's stretching so.
    Sources: arXiv:2104.09864, arXiv:2309.00071, Llama 3.1's reference code.
    """

    theta: float = 10000.0
    rope_type: RopeType = "default"
    partial_rotary_factor: float = 1.0
    factor: float = 1.0
    original_max_position_embeddings: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float = 1.0
    divisors: tuple[float, ...] = ()

    def rotary_dim(self, head_dim: int) -> int:
        """How many leading dims of a head are rotated."""
        return int(head_dim * self.partial_rotary_factor)

    def longest_sequence(self, max_position_embeddings: int) -> int:
        """The longest sequence these embeddings serve, in tokens."""
        if self.rope_type != "yarn":
            return max_position_embeddings
        stretched = int(self.factor * self.original_max_position_embeddings)
        return max(max_position_embeddings, stretched)


def read_rope(
    config: Fields, max_position_embeddings: int, head_dim: int, *, partial: float = 1.0
) -> RopeConfig:
    """Read `rope_parameters`, else `rope_scaling`; top-level keys fill what is missing there.

    ``partial`` is the part of a head that rotates by default. Raises UnsupportedModel for a rope
    type without an implementation, CheckpointError for values that make no sense.
    """
    fields = rope_fields(config)
    rope_type = read_type(fields)
    rope = RopeConfig(
        theta=fields.positive("rope_theta", 10000.0),
        rope_type=rope_type,
        partial_rotary_factor=fields.positive("partial_rotary_factor", partial),
    )
    if rope_type == "linear":
        rope = replace(rope, factor=fields.positive("factor"))
    elif rope_type == "llama3":
        rope = with_llama3(rope, fields)
    elif rope_type == "yarn":
        rope = with_yarn(rope, fields, max_position_embeddings)
    rotary = rope.rotary_dim(head_dim)
    if rope.partial_rotary_factor == 1.0 and head_dim % 2:
        place = "head_dim" if "head_dim" in config else "hidden_size"
        raise config.wrong(place, "such that a head has an even number of dims, which rotate")
    if rotary < 2 or rotary % 2 or rotary > head_dim:
        raise fields.wrong(
            "partial_rotary_factor", f"such that an even part of the {head_dim} dims rotates"
        )
    return rope


def rope_fields(config: Fields) -> Fields:
    """The object that holds the rope keys, completed from the top level."""
    name = "rope_parameters" if "rope_parameters" in config else "rope_scaling"
    own = config.section(name)
    nested = [key for key, value in own.values.items() if isinstance(value, dict)]
    if nested:
        raise UnsupportedModel(
            f"{config.place}: `{name}` holds separate values per layer type ({', '.join(nested)})",
            hint="only one rope for all layers is supported",
        )
    top = {key: config.get(key) for key in FILLED_FROM_TOP if key in config and key not in own}
    place = own.place if own.values else config.place
    return Fields(place, {**own.values, **top})


def read_type(fields: Fields) -> RopeType:
    name = fields.text("rope_type", fields.text("type", "default"))
    if name not in get_args(RopeType):
        raise UnsupportedModel(
            f"{fields.place}: unsupported `rope_type` {name!r}",
            hint=f"supported: {', '.join(get_args(RopeType))}",
        )
    return cast("RopeType", name)


def with_llama3(rope: RopeConfig, fields: Fields) -> RopeConfig:
    low, high = fields.positive("low_freq_factor"), fields.positive("high_freq_factor")
    if high <= low:
        raise fields.wrong("high_freq_factor", f"greater than `low_freq_factor` {low}")
    return replace(
        rope,
        factor=fields.positive("factor"),
        low_freq_factor=low,
        high_freq_factor=high,
        original_max_position_embeddings=fields.integer("original_max_position_embeddings"),
    )


def with_yarn(rope: RopeConfig, fields: Fields, longest: int) -> RopeConfig:
    length = fields.integer("original_max_position_embeddings", longest)
    factor = fields.positive("factor", longest / length)
    if rope.theta <= 1.0:
        raise fields.wrong("rope_theta", "greater than 1 for yarn")
    return replace(
        rope,
        factor=factor,
        original_max_position_embeddings=length,
        beta_fast=fields.positive("beta_fast", 32.0),
        beta_slow=fields.positive("beta_slow", 1.0),
        truncate=fields.flag("truncate", True),
        attention_factor=fields.positive("attention_factor", yarn_attention(fields, factor)),
    )


def yarn_attention(fields: Fields, factor: float) -> float:
    """The factor of cos and sin that yarn prescribes; `mscale` and `mscale_all_dim` replace it."""

    if fields.get("mscale") and fields.get("mscale_all_dim"):
        above, below = fields.positive("mscale"), fields.positive("mscale_all_dim")
        return yarn_scale(factor, above) / yarn_scale(factor, below)
    return yarn_scale(factor)


def yarn_scale(factor: float, weight: float = 1.0) -> float:
    """What yarn multiplies cos and sin by. Source: arXiv:2309.00071 §3.4."""
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1.0 else 1.0
