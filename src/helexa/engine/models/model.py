"""What every language model is, whatever its architecture."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import nn

from helexa.engine.batch import Batch, build_batch
from helexa.engine.cache.kv import KVCache
from helexa.engine.cache.state import StateCache
from helexa.engine.device_batch import build_device_batch
from helexa.engine.layers.embedding import Embedding
from helexa.engine.layers.experts import Experts
from helexa.engine.layers.linear import Linear

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from helexa.engine.batch import Part
    from helexa.engine.checkpoint.weights import Weights
    from helexa.engine.config import ModelConfig
    from helexa.engine.kernels.compiled import Compiler
    from helexa.engine.numerics import Numerics

BLOCK_SIZE = 16
NESTED = "language_model"
"""Where checkpoints of models that also see keep the decoder."""


class Model(nn.Module, ABC):
    """A decoder: tokens in, hidden states and logits out, with the cache as an argument.

    Shapes: T new tokens, R rows whose logits are wanted, V vocabulary entries.

        model = helexa.load_model("tiny")
        logits = model.compute_logits([1, 2, 3])                   # [3, V]

        cache = model.new_cache(tokens=512)                        # and step by step:
        logits = model.compute_logits([1, 2, 3], cache)            # fills positions 0, 1, 2
        logits = model.compute_logits([4], cache, context=3)       # [1, V]
    """

    embed: Embedding
    head: Linear | None

    def __init__(self, config: ModelConfig, numerics: Numerics) -> None:
        super().__init__()
        self.config = config
        self.numerics = numerics
        self.num_parameters = 0
        """Numbers it has learned, a tied output layer counted once; known when loaded."""

    @abstractmethod
    def load(self, weights: Weights) -> None:
        """Fill every module from the checkpoint, by its Hugging Face names."""

    @abstractmethod
    def forward(self, batch: Batch, cache: KVCache) -> Tensor:
        """Run T tokens: → hidden states [T, hidden] after the last norm.

        The batch says which sequence and position each token belongs to and where its key and
        value go in ``cache``, which is written to.
        """

    def compile_layers(self, compiler: Compiler) -> None:
        """Ask ``compiler`` for kernels of whole layers, if the architecture has such."""

    def batch(
        self,
        parts: Sequence[Part | tuple[Sequence[int], int, Sequence[int], int]],
        block_size: int,
    ) -> Batch:
        """Lay the parts of a step out as its layers want them (see `build_batch`)."""
        if self.numerics.on_device:
            paged = self.numerics.paged_decode
            return build_device_batch(parts, block_size, self.device, paged=paged)
        return build_batch(parts, block_size, self.device)

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of every vocabulary entry: hidden [R, hidden] → [R, V] float32."""
        if not len(hidden):  # part of a prompt: no reason to read the output layer
            return hidden.new_empty((0, self.config.vocab_size), dtype=torch.float32)
        output = self.embed.weight.matmul if self.embed.weight is not None else self.head
        assert output is not None
        scores: Tensor = output(hidden)
        return scores.float()

    def new_cache(
        self,
        num_blocks: int | None = None,
        block_size: int = BLOCK_SIZE,
        *,
        tokens: int | None = None,
        states: int = 1,
    ) -> KVCache:
        """A cache of ``num_blocks`` blocks of ``block_size`` tokens, or of room for ``tokens``.

        Recurrent layers get room for the ``states`` of so many sequences. Raises ValueError for no
        room, MemoryError or RuntimeError where there is not so much.
        """
        if num_blocks is None:
            if tokens is None:
                raise TypeError("new_cache needs num_blocks or tokens")
            num_blocks = -(-tokens // block_size)
        if num_blocks < 1:
            raise ValueError("a cache needs room for at least one token")
        config = self.config
        cache = KVCache(
            config.num_attention_layers,
            num_blocks,
            block_size,
            config.num_key_value_heads,
            config.head_dim,
            self.numerics.cache,
            self.device,
        )
        if config.delta is not None:
            dtype, kinds = self.numerics.activations, config.layer_types
            cache.join(StateCache(kinds, states, config.delta, dtype, self.device))
        return cache

    @torch.inference_mode()
    def compute_logits(
        self, ids: Sequence[int], cache: KVCache | None = None, *, context: int = 0
    ) -> Tensor:
        """Logits at every position of one sequence: T ids → [T, V] float32.

        With a ``cache``, the ids follow the ``context`` tokens that earlier calls left in it;
        without one they are the whole sequence. Raises ValueError for no ids, for one that the
        vocabulary lacks, and for a context that no cache has.
        """
        ids = self._known(ids)
        if cache is None:
            if context:
                raise ValueError("context tokens lie in a cache: pass the cache, too")
            cache = self.new_cache(tokens=len(ids))
        if context < 0:
            raise ValueError(f"context must be the number of tokens in the cache, not {context}")
        blocks = range(cache.num_blocks)
        batch = self.batch([(ids, context, blocks, True)], cache.block_size)
        return self.logits(self(batch, cache))

    def _known(self, ids: Sequence[int]) -> list[int]:
        """The ids as plain integers, all of them in the vocabulary."""
        try:
            known = [operator.index(id) for id in ids]
        except TypeError:
            raise TypeError(
                f"{ids!r:.80} is not a sequence of token ids, such as [1, 2, 3]; a tokenizer makes "
                "them from a text"
            ) from None
        size = self.config.vocab_size
        if not known:
            raise ValueError("there are no token ids: pass at least one")
        for id in (min(known), max(known)):
            if not 0 <= id < size:
                raise ValueError(
                    f"there is no token id {id}: the vocabulary has {size}, 0 … {size - 1}"
                )
        return known

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.numerics.device

    @property
    def dtype(self) -> torch.dtype:
        """The format that weights were asked to be kept in.

        Where it has 16 bits, a CPU keeps matrices of less than half a million numbers in float32
        all the same (see `quant.dense`).
        """
        return self.numerics.plain.dtype

    @property
    def cache_dtype(self) -> torch.dtype:
        """The format of keys and values."""
        return self.numerics.cache

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of a token's keys and values."""
        return self.config.kv_bytes_per_token(self.cache_dtype.itemsize)

    @property
    def state_bytes(self) -> int:
        """Bytes of a sequence's recurrent state; 0 if the model has none."""
        return self.config.state_bytes(self.numerics.activations.itemsize)

    @property
    def nbytes(self) -> int:
        """Bytes its weights take in memory."""
        owners = (m for m in self.modules() if isinstance(m, Linear | Embedding | Experts))
        return sum(m.nbytes for m in owners) + sum(b.nbytes for b in self.buffers())


def decoder_part(weights: Weights) -> Weights:
    """The part of a checkpoint that has the embedding, the layers and the last norm."""
    body = weights / "model"
    return body / NESTED if f"{NESTED}.embed_tokens.weight" in body else body
