"""The experts of one layer: their weights, and the operator that runs them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from torch import nn

from helexa.engine.kernels.experts import (
    Expert,
    experts_definition,
    experts_grouped,
    experts_masked,
)
from helexa.engine.kernels.stored_matrix import device_of, has_triton
from helexa.engine.quant.dense import DenseFormat
from helexa.engine.quant.dense_stack import DenseStack
from helexa.engine.quant.insitu import for_experts
from helexa.engine.quant.on_device import stored_experts
from helexa.engine.quant.stored import is_stored, load_matrix
from helexa.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from helexa.engine.checkpoint.weights import Weights
    from helexa.engine.kernels.stored_experts import MixedExperts, StoredExperts
    from helexa.engine.numerics import Numerics
    from helexa.engine.quant.weight import Weight, WeightFormat

    Operator = Callable[[Tensor, Tensor, Tensor, Sequence[Expert]], Tensor]


class Stacks(NamedTuple):
    """All experts' matrices: gate_up [E, 2I, H], down [E, H, I]."""

    gate_up: Tensor
    down: Tensor


class Experts(nn.Module):
    """``count`` gated MLPs of ``size`` on activations of ``hidden``.

    Eats either `{e}.gate_proj`, `{e}.up_proj` and `{e}.down_proj` of each expert, in any format, or
    the tensors `gate_up_proj` [count, 2 · size, hidden] and `down_proj` [count, hidden, size] with
    what belongs to their format (see `Entry`). On a GPU plain matrices are kept in such tensors
    either way, and others found by their addresses; where no kernels can or may read them, every
    expert is run on all tokens, for a GPU would be waited for to learn the choice.
    """

    def __init__(self, hidden: int, size: int, count: int, numerics: Numerics) -> None:
        super().__init__()
        self.hidden, self.size, self.count = hidden, size, count
        self.numerics = for_experts(numerics, count)
        self.run = operator_of(numerics)
        self.experts: tuple[Expert, ...] = ()
        self.stacks: Stacks | None = None
        self.stored: StoredExperts | MixedExperts | None = None

    def load(self, weights: Weights) -> None:
        """Take one expert after the other, so that none is held twice for longer than itself."""
        formats = self.formats()
        take = self.take_stacked if "gate_up_proj" in weights else self.take_single
        self.experts = tuple(
            Expert(*take(weights, expert, formats)) for expert in range(self.count)
        )
        whole = [format.whole for format in formats if isinstance(format, DenseStack)]
        if len(whole) == 2 and whole[0] is not None and whole[1] is not None:
            self.stacks = Stacks(whole[0], whole[1])
        elif self.on_device:
            self.stored = stored_experts(self.experts)

    @property
    def on_device(self) -> bool:
        """Whether kernels of a GPU choose and run them."""
        numerics = self.numerics
        return numerics.fused_experts and numerics.device.type == "cuda" and has_triton()

    def formats(self) -> tuple[WeightFormat, WeightFormat]:
        """Those of gate_up and of down."""
        linear = self.numerics.linear
        if self.on_device and isinstance(linear, DenseFormat):
            gate_up = self.count, 2 * self.size, self.hidden
            down = self.count, self.hidden, self.size
            return DenseStack(gate_up, linear), DenseStack(down, linear)
        return linear, linear

    def take_stacked(
        self, weights: Weights, expert: int, formats: tuple[WeightFormat, WeightFormat]
    ) -> tuple[Weight, Weight]:
        """An expert's gate_up and down from the tensors of all."""
        up, down = (replace(self.numerics, linear=format) for format in formats)
        both = weights.entry("gate_up_proj", expert, self.count)
        gate_up = load_matrix([both], (2 * self.size,), self.hidden, up)
        place = weights.entry("down_proj", expert, self.count)
        return gate_up, load_matrix([place], (self.hidden,), self.size, down)

    def take_single(
        self, weights: Weights, expert: int, formats: tuple[WeightFormat, WeightFormat]
    ) -> tuple[Weight, Weight]:
        """An expert's gate_up and down from its own matrices."""
        place, sizes = weights / expert, (self.size, self.size)
        if not is_stored(place / "gate_proj"):
            refuse_other_stacks(weights)
        up, down = (replace(self.numerics, linear=format) for format in formats)
        gate_up = load_matrix([place / "gate_proj", place / "up_proj"], sizes, self.hidden, up)
        return gate_up, load_matrix([place / "down_proj"], (self.hidden,), self.size, down)

    def forward(self, x: Tensor, chosen: Tensor, shares: Tensor) -> Tensor:
        """x [T, hidden], chosen [T, k] expert numbers, shares [T, k] → [T, hidden]."""
        if self.stacks is None and self.stored is None:
            return self.run(x, chosen, shares, self.experts)
        with device_of(x):
            return self.on_its_device(x, chosen, shares)

    def on_its_device(self, x: Tensor, chosen: Tensor, shares: Tensor) -> Tensor:
        """`forward` by kernels, which only hosts with triton can import."""
        if self.stored is not None:
            from helexa.engine.kernels.stored_experts_triton import experts_as_stored

            return experts_as_stored(x, chosen, shares, self.stored)
        from helexa.engine.kernels.experts_triton import experts_on_device

        assert self.stacks is not None
        return experts_on_device(x, chosen, shares, *self.stacks)

    @property
    def waits(self) -> bool:
        """Whether the host must learn the choice, and waits for it."""
        return self.stacks is None and self.stored is None

    @property
    def nbytes(self) -> int:
        """Bytes their matrices take in memory."""
        return sum(expert.nbytes for expert in self.experts)

    def extra_repr(self) -> str:
        return f"{self.count} of {self.hidden} → {self.size} → {self.hidden}"


def operator_of(numerics: Numerics) -> Operator:
    """What runs experts where kernels of a GPU do not."""
    if not numerics.fused_experts:
        return experts_definition
    return experts_masked if numerics.device.type == "cuda" else experts_grouped


def refuse_other_stacks(weights: Weights) -> None:
    """Raise CheckpointError if all experts' matrices are together, but in names of another kind."""
    found = next((name for name in sorted(weights) if name.startswith("gate_up_proj")), None)
    if found is not None:
        raise CheckpointError(
            f"experts are stored as {weights.full(found)!r}, a layout that is not supported",
            hint="supported: matrices of each expert by itself, or `gate_up_proj` and `down_proj` "
            "of all, plain or in FP8; load another checkpoint of this model",
        )
