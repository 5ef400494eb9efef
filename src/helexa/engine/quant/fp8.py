"""FP8 checkpoints, as Qwen3's official ones are.

`weight` float8 e4m3 [N, K] and, for blocks of `weight_block_size` numbers, `weight_scale_inv`
[⌈N/b0⌉, ⌈K/b1⌉] in a plain format or as bare exponents (e8m0); without blocks one `weight_scale`
for the matrix, for each row, or for its upper and its lower half, which two matrices below each
other have. A weight is its float8 number · its scale. Activations are not quantised: the numbers
that checkpoints keep for that are read over.
Source: https://huggingface.co/docs/transformers/main/quantization/finegrained_fp8
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from helexa.engine.quant.scaled import Scaled, scaled_weight
from helexa.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from torch import Tensor

    from helexa.engine.checkpoint.weights import Weights
    from helexa.engine.numerics import Numerics
    from helexa.engine.quant.weight import Weight

E4M3, E8M0 = "F8_E4M3", "F8_E8M0"
SCALES = ("weight_scale_inv", "weight_scale")
OF_ACTIVATIONS = ("input_scale", "input_zero_point", "activation_scale")


class Fp8Format:
    """Matrices of a checkpoint whose config names fp8."""

    def kind(self, place: Weights) -> Hashable | None:
        """The same for all that are stored so."""
        if "weight" not in place or place.dtype_of("weight") != E4M3:
            return None
        config = place.checkpoint.config.quantization
        return "fp8" if config is not None and config.method == "fp8" else None

    def load(
        self, places: Sequence[Weights], rows: Sequence[int], inputs: int, numerics: Numerics
    ) -> Weight:
        """Take the matrices [rows_i, inputs] as one."""
        config = places[0].checkpoint.config.quantization
        assert config is not None  # see kind
        block = config.block
        parts = [float8(p, (n, inputs), block) for p, n in zip(places, rows, strict=True)]
        return scaled_weight(parts, numerics)


def float8(place: Weights, shape: tuple[int, int], block: tuple[int, int] | None) -> Scaled:
    """One float8 matrix of ``shape`` with its scales, one per ``block``, row or matrix.

    Raises CheckpointError for scales that are absent or of another shape.
    """
    tensor = place.stored("weight", shape)
    ignore_activations(place)
    name = next((name for name in SCALES if name in place), SCALES[block is None])
    if block is not None:
        counts = tuple(-(-size // b) for size, b in zip(shape, block, strict=True))
        return Scaled(place.full("weight"), tensor, scales(place, name, counts), block)
    scale = per_row(place, name, shape[0])
    return Scaled(place.full("weight"), tensor, scale, (1, shape[1]))


def scales(place: Weights, name: str, shape: tuple[int, ...] | None) -> Tensor:
    """Scales in any format of real numbers, as stored."""
    if name in place and place.dtype_of(name) == E8M0:
        return place.stored(name, shape).float()
    return place.take(name, shape)


def per_row(place: Weights, name: str, rows: int) -> Tensor:
    """Scales [rows, 1]: as stored, or one number for all rows or each half of them."""
    scale = scales(place, name, None)
    count = scale.numel()
    if count not in (1, rows) and (count, rows % 2) != (2, 0):
        raise CheckpointError(
            f"tensor {place.full(name)!r} has shape {list(scale.shape)}, not one number for the "
            f"matrix or for each of {rows} rows",
            hint="config and weights do not belong together; fetch the model again",
        )
    return scale.reshape(-1, 1).repeat_interleave(rows // count, 0)


def ignore_activations(place: Weights) -> None:
    """Count what is there for quantising activations as used: they stay as they are."""
    for name in OF_ACTIVATIONS:
        if name in place:
            place.stored(name)
