"""A checkpoint's tensors as a GGUF file has them: other names, and some in another order.

What is done here `gguf_names` and `gguf` undo. Shapes: Hk key heads, Hv value heads of Dk and Dv
dims in layers of the gated delta rule.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from helexa.engine.checkpoint.gguf_names import MODULES, OUTSIDE, ROPE_DIVISORS
from helexa.engine.hybrid_config import HYBRIDS
from helexa.engine.layers.rope import inverse_frequencies
from helexa.engine.rope_config import RopeConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from helexa.engine.checkpoint.checkpoint import Checkpoint
    from helexa.engine.config import ModelConfig
    from helexa.engine.hybrid_config import DeltaConfig

LEFT_OUT = re.compile(r"mtp\.|(model\.)?visual\.|.*\.rotary_emb\.inv_freq$")
LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
EXPERT = re.compile(r"mlp\.experts\.(\d+)\.(gate|up|down)_proj\.weight")
TO_OUTSIDE = {ours: theirs for theirs, ours in OUTSIDE.items()}
TO_MODULE = {ours: theirs for theirs, ours in MODULES.items()}
ALONE = {"linear_attn.dt_bias": "ssm_dt.bias", "linear_attn.A_log": "ssm_a"}
STACKED = {"mlp.experts.gate_up_proj": "ffn_gate_up_exps", "mlp.experts.down_proj": "ffn_down_exps"}
CENTRED = ("layernorm.weight", "q_norm.weight", "k_norm.weight", "model.norm.weight")
SMALL = ("mlp.gate", "shared_expert_gate", "in_proj_a", "in_proj_b", "in_proj_ba", "conv1d")


@dataclass(frozen=True, slots=True)
class Converted:
    """A tensor of a GGUF file: ``parts`` give its rows, one below the other, when they are asked.

    ``kind`` says what it is for: `linear` may be quantised, `table` is the embedding, `small` is
    kept exact.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    parts: tuple[Callable[[], Tensor], ...]


def converted_tensors(checkpoint: Checkpoint) -> Iterator[Converted]:
    """All tensors, layer by layer; the experts of one are one tensor."""
    config = checkpoint.config
    experts: dict[str, dict[int, str]] = {}
    if config.rope.rope_type == "llama3":
        divisors = rope_divisors(config)
        yield Converted(ROPE_DIVISORS, tuple(divisors.shape), "small", (lambda: divisors,))
    for name in sorted(checkpoint.names(), key=by_layer):
        if LEFT_OUT.match(name) or (name == "lm_head.weight" and checkpoint.tied):
            continue
        inner = name.replace("model.language_model.", "model.")
        layer = LAYER.fullmatch(inner)
        match = EXPERT.fullmatch(layer[2]) if layer else None
        if layer and match:
            to = f"blk.{layer[1]}.ffn_{match[2]}_exps.weight"
            experts.setdefault(to, {})[int(match[1])] = name
        else:
            yield from converted(checkpoint, name, inner)
    for to, each in experts.items():
        rows, columns = checkpoint.info(each[0]).shape
        parts = tuple(reader(checkpoint, each[i]) for i in range(len(each)))
        yield Converted(to, (len(each), rows, columns), "linear", parts)


def by_layer(name: str) -> tuple[bool, int, str]:
    """Layers in their order, behind what is in none."""
    match = LAYER.fullmatch(name.replace("model.language_model.", "model."))
    return (match is not None, int(match[1]) if match else 0, name)


def reader(checkpoint: Checkpoint, name: str) -> Callable[[], Tensor]:
    return lambda: checkpoint.tensor(name)


def converted(checkpoint: Checkpoint, name: str, inner: str) -> Iterator[Converted]:
    """One tensor of the checkpoint, which becomes one or two."""
    config, shape = checkpoint.config, checkpoint.info(name).shape
    read = reader(checkpoint, name)
    if inner in TO_OUTSIDE:
        kind = {"model.embed_tokens.weight": "table", "model.norm.weight": "small"}.get(inner)
        yield Converted(
            TO_OUTSIDE[inner], shape, kind or "linear", (lambda: changed(read(), inner, config),)
        )
        return
    layer = LAYER.fullmatch(inner)
    if layer is None:
        raise ValueError(f"no place in GGUF for {name!r}")
    at, rest = f"blk.{layer[1]}.", layer[2]
    if rest in STACKED:
        yield Converted(
            f"{at}{STACKED[rest]}.weight", shape, "linear", (lambda: read().flatten(0, 1),)
        )
        return
    if rest == "linear_attn.in_proj_qkvz.weight" and config.delta is not None:
        yield from ungrouped(at, read, shape, config.delta)
        return
    module, _, kind = rest.rpartition(".")
    to = ALONE.get(rest) or f"{gguf_module(module, config)}.{kind}"
    squeezed = shape
    if module.endswith("conv1d"):
        squeezed = (shape[0], shape[2])
    elif module.endswith("shared_expert_gate"):
        squeezed = shape[1:]
    small = len(squeezed) < 2 or module.endswith(SMALL)
    yield Converted(
        at + to,
        squeezed,
        "small" if small else "linear",
        (lambda: changed(read(), rest, config).reshape(squeezed),),
    )


def gguf_module(module: str, config: ModelConfig) -> str:
    """What GGUF calls a module of a layer."""
    if module == "post_attention_layernorm":
        return "post_attention_norm" if config.model_type in HYBRIDS else "ffn_norm"
    return TO_MODULE[module]


def changed(values: Tensor, name: str, config: ModelConfig) -> Tensor:
    """The values as the file has them."""
    if config.zero_centred_norms and name.endswith(CENTRED):
        return values.float() + 1
    if config.model_type == "llama" and "self_attn." in name:
        for projection, heads in (("q_proj", 0), ("k_proj", 1)):
            if projection in name:
                count = (config.num_attention_heads, config.num_key_value_heads)[heads]
                return interleaved(values, count)
    if config.delta is not None and "linear_attn." in name:
        if config.model_type != "qwen3_next":
            values = tiled(values, name, config.delta)
        if name.endswith("A_log"):
            return -values.float().exp()
    return values


def interleaved(rows: Tensor, heads: int) -> Tensor:
    """Rows of heads whose halves rotate together, put pair by pair."""
    tail = rows.shape[1:]
    return rows.view(heads, 2, -1, *tail).transpose(1, 2).reshape(rows.shape)


def tiled(values: Tensor, name: str, delta: DeltaConfig) -> Tensor:
    """Value heads from the order of their key heads to one of each key head in turn."""
    each = delta.value_heads // delta.key_heads

    def turn(rows: Tensor) -> Tensor:
        split = rows.reshape(delta.key_heads, each, -1, *rows.shape[1:])
        return split.transpose(0, 1).reshape(rows.shape)

    if name.endswith(("in_proj_qkv.weight", "conv1d.weight")):
        keys = 2 * delta.key_size
        return torch.cat((values[:keys], turn(values[keys:])))
    if name.endswith("out_proj.weight"):
        return turn(values.t()).t()
    if name.endswith(
        ("in_proj_z.weight", "in_proj_b.weight", "in_proj_a.weight", "A_log", "dt_bias")
    ):
        return turn(values)
    return values


def ungrouped(
    at: str, read: Callable[[], Tensor], shape: tuple[int, ...], delta: DeltaConfig
) -> Iterator[Converted]:
    """in_proj_qkvz, whose rows are grouped by key head, as qkv and as z."""
    per_key = delta.value_size // delta.key_heads
    cuts = [delta.key_dim, delta.key_dim, per_key, per_key]

    def parts(first: int, last: int) -> Tensor:
        groups = torch.split(read().view(delta.key_heads, -1, shape[1]), cuts, 1)
        return torch.cat([part.reshape(-1, shape[1]) for part in groups[first:last]])

    qkv, z = (delta.channels, shape[1]), (delta.value_size, shape[1])
    yield Converted(f"{at}attn_qkv.weight", qkv, "linear", (lambda: parts(0, 3),))
    yield Converted(f"{at}attn_gate.weight", z, "linear", (lambda: parts(3, 4),))


def rope_divisors(config: ModelConfig) -> Tensor:
    """What llama3's rope divides each frequency by, [d/2]."""
    dim = config.rope.rotary_dim(config.head_dim)
    plain = inverse_frequencies(RopeConfig(theta=config.rope.theta), dim)
    return plain / inverse_frequencies(config.rope, dim)
