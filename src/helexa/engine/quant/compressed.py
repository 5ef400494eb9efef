"""The formats of compressed-tensors that are weights times scales.

- pack-quantized: `weight_packed` int32 [N, ⌈K·bits/32⌉], each row a stream of numbers, lowest bits
  first, stored plus 2^(bits−1); `weight_shape` is [N, K]; `weight_zero_point` [⌈N·bits/32⌉, G] is
  packed along the outputs (int8 [N, G] in older files).
- int-quantized, float-quantized, naive-quantized: `weight` [N, K] in int8 or float8 e4m3,
  `weight_zero_point` int8 in `weight_scale`'s shape.

`weight_scale` is [N, G], [N, 1], [1] or, for blocks, [⌈N/b0⌉, ⌈K/b1⌉]; `weight_g_idx` [K] says
which group an input is in. A weight is (q − z)·s. Activations are not quantised.
Source: https://github.com/vllm-project/compressed-tensors (README, `compressors`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from helexa.engine.quant.bits import WORD, unpack
from helexa.engine.quant.fp8 import E4M3, float8, ignore_activations, per_row
from helexa.engine.quant.groups import Codes, Groups, group_weight
from helexa.engine.quant.scaled import scaled_weight
from helexa.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from torch import Tensor

    from helexa.engine.checkpoint.weights import Weights
    from helexa.engine.numerics import Numerics
    from helexa.engine.quant.weight import Weight
    from helexa.engine.quantization_config import Scheme

BYTE_MIDDLE = 128
"""What makes int8 numbers unsigned."""


class CompressedFormat:
    """Matrices of a checkpoint whose config names compressed-tensors."""

    def kind(self, place: Weights) -> Hashable | None:
        """Its scheme and how it is stored."""
        if (stored := layout(place)) is None:
            return None
        config = place.checkpoint.config.quantization
        if config is None or config.method != "compressed-tensors":
            return None
        return stored, config.scheme(place.prefix)

    def load(
        self, places: Sequence[Weights], rows: Sequence[int], inputs: int, numerics: Numerics
    ) -> Weight:
        """Take the matrices [rows_i, inputs] as one."""
        stored, scheme = layout(places[0]), scheme_of(places[0])
        sized = list(zip(places, rows, strict=True))
        if stored == "float8":
            block = (1, scheme.group_size) if scheme.group_size else scheme.block
            return scaled_weight([float8(p, (n, inputs), block) for p, n in sized], numerics)
        read = packed if stored == "packed" else int8
        return group_weight([read(p, n, inputs, scheme) for p, n in sized], inputs, numerics)


def layout(place: Weights) -> str | None:
    """How the matrix at a place is stored; None: plainly, or not at all."""
    if "weight_packed" in place:
        return "packed"
    if "weight" not in place:
        return None
    return {"I8": "int8", E4M3: "float8"}.get(place.dtype_of("weight"))


def scheme_of(place: Weights) -> Scheme:
    """What the config says of a place. Raises CheckpointError if nothing."""
    config = place.checkpoint.config.quantization
    scheme = None if config is None else config.scheme(place.prefix)
    if scheme is None:
        raise CheckpointError(
            f"{place.prefix!r} is stored quantised, but no group of `quantization_config` has it",
            hint="config and weights do not belong together; fetch the model again",
        )
    return scheme


def packed(place: Weights, rows: int, inputs: int, scheme: Scheme) -> Groups:
    """One matrix [rows, inputs] of pack-quantized."""
    bits = scheme.bits
    words = place.stored("weight_packed", (rows, -(-inputs * bits // WORD)))
    if "weight_shape" in place and place.stored("weight_shape").tolist() != [rows, inputs]:
        raise CheckpointError(
            f"{place.full('weight_shape')!r} is not [{rows}, {inputs}]",
            hint="config and weights do not belong together; fetch the model again",
        )

    def codes(start: int, stop: int) -> Tensor:
        return unpack(words[start:stop], bits, inputs)

    return grouped(place, (rows, inputs), scheme, codes, bits)


def int8(place: Weights, rows: int, inputs: int, scheme: Scheme) -> Groups:
    """One matrix [rows, inputs] of int8 numbers."""
    weight = place.stored("weight", (rows, inputs))

    def codes(start: int, stop: int) -> Tensor:
        return unsigned(weight[start:stop], BYTE_MIDDLE)

    return grouped(place, (rows, inputs), scheme, codes, 8)


def grouped(
    place: Weights, shape: tuple[int, int], scheme: Scheme, codes: Codes, bits: int
) -> Groups:
    """Numbers stored plus 2^(``bits``−1), with what belongs to them."""
    rows, inputs = shape
    ignore_activations(place)
    if scheme.block is not None:
        raise CheckpointError(
            f"{place.prefix!r} has blocks of integers", hint="supported: blocks of float8"
        )
    group = scheme.group_size or inputs
    count = -(-inputs // group)
    if scheme.group_size:
        scale = place.take("weight_scale", (rows, count))
    else:
        scale = per_row(place, "weight_scale", rows)
    middle = 2 ** (bits - 1)
    zero = None if scheme.symmetric else zero_points(place, rows, count, bits)
    index = place.stored("weight_g_idx", (inputs,)) if "weight_g_idx" in place else None
    if index is not None and bool((index < 0).all()):  # so it is left where there is no order
        index = None
    return Groups(
        name=place.full("weight_g_idx"),
        rows=rows,
        bits=bits,
        codes=codes,
        scale=scale.T,
        zero=None if zero is None else zero.T,
        shift=middle if zero is None else 0,
        group=group,
        index=index,
    )


def zero_points(place: Weights, rows: int, count: int, bits: int) -> Tensor:
    """Zero points [rows, count] uint8, plus 2^(``bits``−1)."""
    name = "weight_zero_point"
    if place.dtype_of(name) == "I32":
        words = place.stored(name, (-(-rows * bits // WORD), count))
        return unpack(words.T, bits, rows).T
    points = place.stored(name)
    if points.numel() not in (rows * count, 1):
        place.check(name, (rows, count))
    return unsigned(points.reshape(-1, count).expand(rows, count), 2 ** (bits - 1))


def unsigned(values: Tensor, middle: int) -> Tensor:
    """int8 numbers plus ``middle``, which makes them fit uint8."""
    return values.view(torch.uint8) + middle  # which wraps around
