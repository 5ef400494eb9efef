"""AWQ's 4-bit layout, called gemm.

`qweight` int32 [K, N/8] packs eight outputs of each input, `qzeros` int32 [G, N/8] their zero
points, `scales` is [G, N]; a weight is (q − z)·s. Of eight outputs the four bits at 4·i are number
(0, 2, 4, 6, 1, 3, 5, 7)[i].
Source: arXiv:2306.00978; https://github.com/casper-hansen/AutoAWQ (its version GEMM).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from helexa.engine.quant.bits import WORD, unpack
from helexa.engine.quant.groups import Groups

if TYPE_CHECKING:
    from torch import Tensor

    from helexa.engine.checkpoint.weights import Weights
    from helexa.engine.quantization_config import QuantizationConfig

BITS = 4
PER_WORD = WORD // BITS
PLACES = (0, 4, 1, 5, 2, 6, 3, 7)
"""Where in a word output 0, 1, 2 … 7 is."""


def awq_groups(place: Weights, rows: int, inputs: int, config: QuantizationConfig) -> Groups:
    """One matrix [rows, inputs] as stored; rows a multiple of 8."""
    group = config.group(inputs)
    count, words = -(-inputs // group), -(-rows // PER_WORD)
    qweight = place.stored("qweight", (inputs, words))

    def codes(start: int, stop: int) -> Tensor:  # start and stop are multiples of 8
        return outputs(qweight[:, start // PER_WORD : -(-stop // PER_WORD)]).T

    return Groups(
        name=place.full("qweight"),
        rows=rows,
        bits=BITS,
        codes=codes,
        scale=place.take("scales", (count, rows)),
        zero=outputs(place.stored("qzeros", (count, words))),
        shift=0,
        group=group,
    )


def outputs(words: Tensor) -> Tensor:
    """The numbers of each row in the order of the outputs: [R, W] int32 → [R, 8·W] uint8."""
    found = unpack(words, BITS).view(*words.shape, PER_WORD)
    return found[..., PLACES].flatten(-2)
