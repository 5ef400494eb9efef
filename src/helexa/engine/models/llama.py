"""Llama: attention and a gated MLP, each after an RMSNorm.

Reference: transformers' `LlamaForCausalLM`; arXiv:2302.13971, arXiv:2407.21783.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

from torch import nn

from helexa.engine.kernels.stored_matrix import device_of
from helexa.engine.layers.compiled import (
    CompiledLayer,
    FewRowLayers,
    compile_layers,
    run_compiled,
    want_kernels,
)
from helexa.engine.layers.decoder import DecoderLayer, decoder_norm, load_layers
from helexa.engine.layers.embedding import Embedding
from helexa.engine.layers.fused import Step, run_fused
from helexa.engine.layers.linear import Linear
from helexa.engine.layers.rope import Rotary
from helexa.engine.models.model import Model, decoder_part
from helexa.engine.quant.insitu import for_logits

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from helexa.engine.batch import Batch
    from helexa.engine.cache.kv import KVCache
    from helexa.engine.checkpoint.weights import Weights
    from helexa.engine.config import ModelConfig
    from helexa.engine.kernels.compiled import Compiler
    from helexa.engine.numerics import Numerics


class Llama(Model):
    """Embedding, decoder layers, norm, and an output layer of its own unless it is tied."""

    def __init__(self, config: ModelConfig, numerics: Numerics) -> None:
        super().__init__(config, numerics)
        self.embed = Embedding(config.vocab_size, config.hidden_size, numerics)
        self.rotary = Rotary(config.rope, config.head_dim)
        self.layers = nn.ModuleList(
            DecoderLayer(config, numerics, index) for index in range(config.num_hidden_layers)
        )
        self.norm = decoder_norm(config)
        self.head = None
        self.compiled: FewRowLayers | None = None

    def load(self, weights: Weights) -> None:
        """Fill every module from the checkpoint, by its Hugging Face names."""
        body, config = decoder_part(weights), self.config
        tied = weights.checkpoint.tied
        # The largest matrices first: the layers that follow fill every core to the end.
        first: list[Callable[[], None]] = [
            partial(self.embed.load, body / "embed_tokens", tied=tied)
        ]
        if not tied:
            numerics = for_logits(self.numerics)
            self.head = Linear(config.hidden_size, config.vocab_size, bias=False, numerics=numerics)
            first.append(partial(self.head.load, weights / "lm_head"))
        first.append(self.numerics.plain.workspace.clear)  # layers may have no use for so much
        load_layers(self.layers, body / "layers", first)
        self.norm.load(body / "norm")

    def forward(self, batch: Batch, cache: KVCache) -> Tensor:
        """Run T tokens: → hidden states [T, hidden] after the last norm."""
        with device_of(batch.token_ids) if self.numerics.on_device else nullcontext():
            x = self.embed(batch.token_ids)
            if self.numerics.fused_ops:
                step = Step.of(batch, self.rotary)
                return run_fused(self.layers, self.norm, x, step, cache)
            angles = self.rotary(batch.positions)
            if self.compiled is not None and len(x) <= self.compiled.most:
                few = Step(batch, angles)
                return self.normed(run_compiled(self.compiled, x, few, cache))
            for layer, kv in zip(self.layers, cache.layers, strict=True):
                x = layer(x, batch, kv, angles)
            return self.normed(x)

    def normed(self, x: Tensor) -> Tensor:
        """The last norm of all: x [T, hidden]."""
        out: Tensor = self.norm(x)
        return out

    def compile_layers(self, compiler: Compiler) -> None:
        """Have kernels made for steps of few rows, where weights are in formats that allow it."""
        self.compiled = compile_layers(self.layers, compiler, self.numerics.cache)
        replaced = set()
        for layer in self.compiled.layers if self.compiled is not None else ():
            if isinstance(layer, CompiledLayer):
                replaced |= layer.compiled_modules()
        want_kernels(module for module in self.modules() if module not in replaced)
