"""GPTQ's layout of 2, 3, 4 and 8-bit weights.

`qweight` int32 [K·bits/32, N] packs the inputs of each output, `qzeros` int32 [G, N·bits/32] the
zero points of each group, `scales` is [G, N], `g_idx` int32 [K] says which group an input is in.
A weight is (q − z)·s; the classic format stores z − 1, the format gptq_v2 stores z.
Source: arXiv:2210.17323; https://github.com/ModelCloud/GPTQModel (its formats `gptq`, `gptq_v2`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from helexa.engine.quant.bits import WORD, unpack
from helexa.engine.quant.groups import Groups

if TYPE_CHECKING:
    from torch import Tensor

    from helexa.engine.checkpoint.weights import Weights
    from helexa.engine.quantization_config import QuantizationConfig


def gptq_groups(place: Weights, rows: int, inputs: int, config: QuantizationConfig) -> Groups:
    """One matrix [rows, inputs] as stored."""
    bits = config.bits
    group = config.group(inputs)
    count = -(-inputs // group)
    qweight = place.stored("qweight", (-(-inputs * bits // WORD), rows))
    qzeros = place.stored("qzeros", (count, -(-rows * bits // WORD)))
    has_index = "g_idx" in place
    drop_empty_bias(place)

    def codes(start: int, stop: int) -> Tensor:
        return unpack(qweight[:, start:stop].T, bits, inputs)

    return Groups(
        name=place.full("g_idx"),
        rows=rows,
        bits=bits,
        codes=codes,
        scale=place.take("scales", (count, rows)),
        zero=unpack(qzeros, bits, rows),
        shift=0 if config.checkpoint_format == "gptq_v2" else 1,
        group=group,
        index=place.stored("g_idx", (inputs,)) if has_index else None,
    )


def drop_empty_bias(place: Weights) -> None:
    """Count a bias of zeros as used: some writers add one to layers that have none."""
    if "bias" in place and not place.checkpoint.tensor(place.full("bias")).any():
        place.take("bias", None)
