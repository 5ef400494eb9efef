"""What a checkpoint's config says about layers, and about linear attention among them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from helexa.errors import UnsupportedModel

if TYPE_CHECKING:
    from helexa.engine.fields import Fields

LayerType = Literal["full_attention", "linear_attention"]
HYBRIDS = frozenset({"qwen3_next", "qwen3_5", "qwen3_5_moe"})


@dataclass(frozen=True, slots=True)
class DeltaConfig:
    """The gated delta rule's shape: heads of keys and of values, their dims, the convolution.

    ``tiled``: value head j belongs to key head j mod key_heads, and not to j // (values per key).
    """

    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    kernel: int
    tiled: bool = False

    @property
    def key_size(self) -> int:
        """Numbers of a token's keys, of all heads."""
        return self.key_heads * self.key_dim

    @property
    def value_size(self) -> int:
        """Numbers of a token's values, of all heads."""
        return self.value_heads * self.value_dim

    @property
    def channels(self) -> int:
        """What the convolution runs over: queries, keys and values."""
        return 2 * self.key_size + self.value_size

    def state_bytes(self, conv_bytes: int) -> int:
        """Bytes of one sequence's state in one layer, at ``conv_bytes`` per convolution input."""
        recurrent = self.value_heads * self.key_dim * self.value_dim * 4
        return recurrent + (self.kernel - 1) * self.channels * conv_bytes


def read_layer_types(config: Fields, model_type: str, num_layers: int) -> tuple[LayerType, ...]:
    """What each layer mixes tokens with. Raises CheckpointError, UnsupportedModel."""
    kinds = config.texts("layer_types")
    hybrid = model_type in HYBRIDS
    if not kinds:
        every = config.integer("full_attention_interval", 4) if hybrid else 1
        kinds = tuple(
            "full_attention" if (i + 1) % every == 0 else "linear_attention"
            for i in range(num_layers)
        )
    if "full_attention" not in kinds:
        raise UnsupportedModel(
            f"{config.place}: no layer of `layer_types` has full attention",
            hint="supported: models that have some such layer",
        )
    if len(kinds) != num_layers:
        raise config.wrong("layer_types", f"a list of {num_layers}, one entry per layer")
    known = get_args(LayerType) if hybrid else ("full_attention",)
    for index, kind in enumerate(kinds):
        if kind not in known:
            raise UnsupportedModel(
                f"{config.place}: unsupported `layer_types` entry {kind!r} (layer {index})",
                hint=f"supported: {', '.join(known)}",
            )
    return kinds  # type: ignore[return-value]  # each was just compared


def read_delta(config: Fields) -> DeltaConfig:
    """The linear layers' shape. Raises CheckpointError for a wrong field."""
    keys = config.integer("linear_num_key_heads", 16)
    values = config.integer("linear_num_value_heads", 32)
    if values % keys:
        raise config.wrong("linear_num_value_heads", f"a multiple of the {keys} key heads")
    return DeltaConfig(
        key_heads=keys,
        value_heads=values,
        key_dim=config.integer("linear_key_head_dim", 128),
        value_dim=config.integer("linear_value_head_dim", 128),
        kernel=config.integer("linear_conv_kernel_dim", 4),
    )
