"""Rotary position embedding: the frequencies of every type, and a step's angles."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

    from helexa.engine.rope_config import RopeConfig


class Rotary(nn.Module):
    """Turns positions into angles, once per step for all layers."""

    frequencies: Tensor

    def __init__(self, config: RopeConfig, head_dim: int) -> None:
        super().__init__()
        frequencies = inverse_frequencies(config, config.rotary_dim(head_dim))
        if config.divisors:
            frequencies = frequencies / torch.tensor(config.divisors)
        self.register_buffer("frequencies", frequencies)
        self.factor = config.attention_factor if config.rope_type == "yarn" else 1.0

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """positions [T] → cos, sin [T, 1, d] float32, sin's first half negated (see `rotate`)."""
        angles = positions[:, None, None].float() * self.frequencies
        cos, sin = angles.cos() * self.factor, angles.sin() * self.factor
        return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)


def inverse_frequencies(config: RopeConfig, dim: int) -> Tensor:
    """Radians per position of each of the dim/2 rotated pairs, float32 [dim/2]."""
    inverse = 1.0 / config.theta ** (torch.arange(0, dim, 2).float() / dim)
    if config.rope_type == "linear":
        return inverse / config.factor
    if config.rope_type == "llama3":
        return llama3_frequencies(config, inverse)
    if config.rope_type == "yarn":
        return yarn_frequencies(config, inverse, dim)
    return inverse


def llama3_frequencies(config: RopeConfig, inverse: Tensor) -> Tensor:
    """Long waves divided by the factor, short ones kept, a blend between. Source: Llama 3.1."""
    length, low, high = (
        config.original_max_position_embeddings,
        config.low_freq_factor,
        config.high_freq_factor,
    )
    wave = 2 * math.pi / inverse
    smooth = (length / wave - low) / (high - low)
    blend = (1 - smooth) * inverse / config.factor + smooth * inverse
    long_or_blend = torch.where(wave > length / low, inverse / config.factor, blend)
    return torch.where(wave < length / high, inverse, long_or_blend)


def yarn_frequencies(config: RopeConfig, inverse: Tensor, dim: int) -> Tensor:
    """Interpolate slow pairs, keep fast ones, with a ramp between. Source: arXiv:2309.00071."""

    def pair_turning(times: float) -> float:
        """The pair (a real index) that turns ``times`` times over the original context."""
        turns = config.original_max_position_embeddings / (times * 2 * math.pi)
        return dim * math.log(turns) / (2 * math.log(config.theta))

    low, high = pair_turning(config.beta_fast), pair_turning(config.beta_slow)
    if config.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001
    ramp = ((torch.arange(dim // 2).float() - low) / (high - low)).clamp(0, 1)
    return inverse * (1 - ramp) + inverse / config.factor * ramp
