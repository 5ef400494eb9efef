"""What GGUF calls the tensors of a model, and Hugging Face, whose names loaders use.

Source of GGUF's: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md#standardized-tensor-names
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from helexa.engine.checkpoint.gguf_types import READABLE
from helexa.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from helexa.engine.checkpoint.table import TensorInfo

EMBEDDING, OUTPUT, ROPE_DIVISORS = "token_embd.weight", "output.weight", "rope_freqs.weight"
BLOCK = re.compile(r"blk\.(\d+)\.(.+)")

OUTSIDE = MappingProxyType(
    {
        EMBEDDING: "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
        OUTPUT: "lm_head.weight",
    }
)
MODULES = MappingProxyType(
    {
        "attn_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
        "post_attention_norm": "post_attention_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "attn_q_norm": "self_attn.q_norm",
        "attn_k_norm": "self_attn.k_norm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
        "ffn_gate_inp": "mlp.gate",
        "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
        "ffn_up_shexp": "mlp.shared_expert.up_proj",
        "ffn_down_shexp": "mlp.shared_expert.down_proj",
        "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
        "attn_qkv": "linear_attn.in_proj_qkv",
        "attn_gate": "linear_attn.in_proj_z",
        "ssm_in": "linear_attn.in_proj_qkvz",
        "ssm_ba": "linear_attn.in_proj_ba",
        "ssm_beta": "linear_attn.in_proj_b",
        "ssm_alpha": "linear_attn.in_proj_a",
        "ssm_conv1d": "linear_attn.conv1d",
        "ssm_norm": "linear_attn.norm",
        "ssm_out": "linear_attn.out_proj",
    }
)
"""Modules of a layer; what follows is `.weight` or `.bias`."""
WHOLE = MappingProxyType({"ssm_dt.bias": "linear_attn.dt_bias", "ssm_a": "linear_attn.A"})
"""Tensors of a layer that are no module's. `A` is −exp(A_log), the factor of softplus."""
EXPERTS = MappingProxyType(
    {
        "ffn_gate_exps.weight": ("gate_proj",),
        "ffn_up_exps.weight": ("up_proj",),
        "ffn_down_exps.weight": ("down_proj",),
        "ffn_gate_up_exps.weight": ("gate_proj", "up_proj"),
    }
)
"""Tensors [E, rows, K] with the matrices of all experts, and which those are, one below another."""
MAX_EXPERTS = 2**16
ROTATED = re.compile(r".*\.self_attn\.([qk])_proj\.(weight|bias)")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor under a Hugging Face name is.

    ``info`` has that name, the shape it is expected in, and the bytes that are its own. ``heads``:
    the rows of so many heads are in the order of interleaved rotation; 0 if they are not.
    """

    info: TensorInfo
    heads: int = 0


def tensor_places(
    tensors: Mapping[str, TensorInfo], layers: int, heads: tuple[int, int] | None
) -> dict[str, Place]:
    """Where every tensor of a model is, by Hugging Face name, experts one by one.

    What belongs to no layer of ``layers`` is left out: blocks that predict further tokens. Tensors
    that are not known keep their names. ``heads`` are those of queries and of keys where their rows
    are permuted.
    """
    found: dict[str, Place] = {}
    for info in tensors.values():
        for named in renamed(info, layers):
            if named.name in found:
                raise CheckpointError(
                    f"tensor {info.name!r} in {info.file} stands for {named.name!r}, and so does "
                    "another",
                    hint="the file is damaged, or made by another's rules; fetch another",
                )
            match = ROTATED.fullmatch(named.name) if heads else None
            of = heads["qk".index(match[1])] if match and heads else 0
            found[named.name] = Place(named, of)
    return found


def renamed(info: TensorInfo, layers: int) -> Iterator[TensorInfo]:
    """A tensor under its Hugging Face name, or several where it holds those of many experts."""
    if info.name == ROPE_DIVISORS:
        return
    match = BLOCK.fullmatch(info.name)
    if match is None:
        yield replace(info, name=OUTSIDE.get(info.name, info.name))
        return
    layer, rest = int(match[1]), match[2]
    if layer >= layers or rest.startswith("nextn."):
        return
    start = f"model.layers.{layer}."
    if rest in EXPERTS and len(info.shape) == 3 and info.nbytes and info.shape[0] <= MAX_EXPERTS:
        yield from experts(info, f"{start}mlp.experts.", EXPERTS[rest])
        return
    module, _, kind = rest.rpartition(".")
    if rest in WHOLE:
        yield replace(info, name=start + WHOLE[rest])
    elif module in MODULES and kind in ("weight", "bias"):
        yield replace(info, name=f"{start}{MODULES[module]}.{kind}", shape=shape_of(module, info))
    else:
        yield info


def shape_of(module: str, info: TensorInfo) -> tuple[int, ...]:
    """The shape that Hugging Face has; GGUF leaves out dims of one."""
    shape = info.shape
    if module == "ssm_conv1d" and len(shape) == 2:
        return shape[0], 1, shape[1]
    if module == "ffn_gate_inp_shexp" and len(shape) == 1:
        return 1, shape[0]
    return shape


def experts(info: TensorInfo, start: str, matrices: tuple[str, ...]) -> Iterator[TensorInfo]:
    """Every matrix [rows / n, K] in a tensor [E, rows, K] of n matrices per expert."""
    count, rows, columns = info.shape
    rows //= len(matrices)
    nbytes = rows * READABLE[info.dtype].row_bytes(columns)
    at = info.start
    for expert in range(count):
        for matrix in matrices:
            name = f"{start}{expert}.{matrix}.weight"
            yield replace(info, name=name, shape=(rows, columns), nbytes=nbytes, start=at)
            at += nbytes
