"""The pre-norm residual layer that every decoder family is a stack of."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from helexa.engine.layers.attention import Attention
from helexa.engine.layers.delta import GatedDelta
from helexa.engine.layers.kv_range import largest_key_or_value
from helexa.engine.layers.mlp import GatedMLP
from helexa.engine.layers.moe import MoE
from helexa.engine.layers.norm import RMSNorm
from helexa.heap import heap_trimmer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from helexa.engine.batch import Batch
    from helexa.engine.cache.kv import LayerCache
    from helexa.engine.cache.state import LayerState
    from helexa.engine.checkpoint.weights import Weights
    from helexa.engine.config import ModelConfig
    from helexa.engine.numerics import Numerics

LOADERS = 8


class DecoderLayer(nn.Module):
    """x += mixer(norm(x)), then x += mlp(norm(x)); ``index`` is its place in the model.

    The mixer attends or keeps a state, by ``config.layer_types``; the MLP is a mixture of experts
    in the layers that ``config.moe`` names. ``largest_key_or_value`` is known once loaded, and only
    where the cache's format depends on it.
    """

    mixer: Attention | GatedDelta

    def __init__(self, config: ModelConfig, numerics: Numerics, index: int) -> None:
        super().__init__()
        self.config, self.numerics = config, numerics
        self.attends = config.layer_types[index] == "full_attention"
        self.largest_key_or_value = 0.0
        self.input_norm = decoder_norm(config)
        self.mixer = Attention(config, numerics) if self.attends else GatedDelta(config, numerics)
        self.mlp_norm = decoder_norm(config)
        moe = config.moe
        sparse = moe is not None and index in moe.layers
        self.mlp = MoE(config, numerics) if sparse else GatedMLP(config, numerics)

    def load(self, weights: Weights) -> None:
        """Fill the four parts from a layer's place in the checkpoint."""
        self.input_norm.load(weights / "input_layernorm")
        self.mixer.load(weights / ("self_attn" if self.attends else "linear_attn"))
        self.mlp_norm.load(weights / "post_attention_layernorm")
        self.mlp.load(weights / "mlp")
        if self.numerics.narrow_cache and isinstance(self.mixer, Attention):
            attention, gain = weights / "self_attn", self.input_norm.gain
            self.largest_key_or_value = largest_key_or_value(
                attention, gain, self.config, self.mixer.qkv
            )

    def forward(
        self,
        x: Tensor,
        batch: Batch,
        cache: LayerCache | LayerState,
        angles: tuple[Tensor, Tensor],
    ) -> Tensor:
        """x [T, hidden] → the same shape."""
        x = x + self.mixer(self.input_norm(x), batch, cache, angles)
        out: Tensor = x + self.mlp(self.mlp_norm(x))
        return out


def decoder_norm(config: ModelConfig) -> RMSNorm:
    """A norm of the residual stream."""
    centred = config.zero_centred_norms
    return RMSNorm(config.hidden_size, config.rms_norm_eps, zero_centred=centred)


def load_layers(
    layers: nn.ModuleList, weights: Weights, before: Sequence[Callable[[], None]] = ()
) -> None:
    """Fill each `DecoderLayer` from its place in the checkpoint, several at a time.

    Laying out a matrix keeps one core busy. What is to be loaded ``before`` the layers is begun
    before them, and then goes on beside them. Of several errors, the first one's is raised.
    What a layer leaves of working memory is given back before the next one: it is more than a
    layer in some formats, for each loader has a heap of its own.
    """
    trim = heap_trimmer()

    def load(one: Callable[[], None]) -> None:
        one()
        if trim is not None:
            trim(0)

    every = [
        partial(cast("DecoderLayer", layer).load, weights / index)
        for index, layer in enumerate(layers)
    ]
    with ThreadPoolExecutor(min(LOADERS, torch.get_num_threads())) as pool:
        list(pool.map(load, [*before, *every]))
