"""What a checkpoint's config says about mixtures of experts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from helexa.engine.fields import Fields

RENORMALISES = {"qwen3_moe": False, "qwen3_next": True, "qwen3_5_moe": True}
"""Whether the chosen experts' shares are made to sum to 1, where a config does not say."""


@dataclass(frozen=True, slots=True)
class MoEConfig:
    """A router over ``experts`` small MLPs of ``size``, of which each token takes ``top_k``.

    ``shared_size`` is that of an expert that every token takes too, 0 if there is none; ``layers``
    are the layers that have this in place of a dense MLP.
    """

    experts: int
    top_k: int
    size: int
    shared_size: int
    norm_topk_prob: bool
    layers: frozenset[int]

    def idle_parameters(self, hidden_size: int) -> int:
        """How many numbers of the model a token does not meet: those of experts it did not choose.

        An expert is three matrices of ``size`` by ``hidden_size``.
        """
        return len(self.layers) * (self.experts - self.top_k) * 3 * self.size * hidden_size


def read_moe(config: Fields, model_type: str, num_layers: int) -> MoEConfig | None:
    """The experts of a model; None if it has none. Raises CheckpointError for a wrong field."""
    name = "num_experts" if "num_experts" in config else "num_local_experts"
    experts = config.integer(name, 0, at_least=0)
    if not experts or model_type not in RENORMALISES:
        return None
    top_k = config.integer("num_experts_per_tok")
    if top_k > experts:
        raise config.wrong("num_experts_per_tok", f"no more than `{name}` {experts}")
    norm = RENORMALISES[model_type]
    if model_type != "qwen3_5_moe":  # which has no such field
        norm = config.flag("norm_topk_prob", norm)
    return MoEConfig(
        experts=experts,
        top_k=top_k,
        size=config.integer("moe_intermediate_size"),
        shared_size=config.integer("shared_expert_intermediate_size", 0, at_least=0),
        norm_topk_prob=norm,
        layers=moe_layers(config, num_layers),
    )


def moe_layers(config: Fields, num_layers: int) -> frozenset[int]:
    """Every ``decoder_sparse_step``-th layer, but those of ``mlp_only_layers``."""
    step = config.integer("decoder_sparse_step", 1, at_least=0)
    dense = config.get("mlp_only_layers") or []
    if not isinstance(dense, list) or not all(isinstance(index, int) for index in dense):
        raise config.wrong("mlp_only_layers", "a list of layer numbers")
    if not step:
        return frozenset()
    return frozenset(i for i in range(num_layers) if i not in dense and (i + 1) % step == 0)
