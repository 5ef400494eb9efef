"""Matrices in the bytes that they are stored in, as kernels for GPUs read them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from torch import Tensor


BLOCKS = frozenset({"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"})
"""Block formats (see `quant.blocks`) that have decoders, which have their names."""


@dataclass(frozen=True, slots=True, eq=False)
class StoredMatrix:
    """A matrix of ``shape`` (N, K) that the decoder of this name finds in ``tensors``.

    ``sizes`` are what else the decoder must know (see where it is written). All tensors are
    contiguous. Decoders: those of `kernels.products_triton`.
    """

    decoder: str
    tensors: tuple[Tensor, ...]
    shape: tuple[int, int]
    sizes: tuple[int, ...] = ()

    @property
    def kind(self) -> tuple[str, tuple[int, int], tuple[int, ...], tuple[torch.dtype, ...]]:
        """What matrices that one kernel reads by their addresses have in common."""
        dtypes = tuple(tensor.dtype for tensor in self.tensors)
        return self.decoder, self.shape, self.sizes, dtypes


@cache
def has_triton() -> bool:
    """Whether kernels can be compiled here: triton comes with torch's builds for GPUs."""
    return find_spec("triton") is not None


def device_of(x: Tensor) -> AbstractContextManager[object]:
    """Makes the GPU that a tensor is on the current one: triton's kernels run on that."""
    made: AbstractContextManager[object] = torch.cuda.device_of(x)  # type: ignore[no-untyped-call]  # torch's
    return made


class Layout(NamedTuple):
    """What a kernel is compiled for: a kind of matrix, and the tiles it is cut into.

    A tile has ``columns`` rows of the matrix (outputs) and ``depth`` of its inputs. ``parts`` tiles
    side by side make a step; of its inputs, ``run`` belong to the first, as many to the second, and
    so on in turn. ``shared`` outputs have their integers in one byte: of a ``block`` of outputs
    those that are block / shared apart. ``order`` is the place among the matrix's tensors of the
    one that says which input of the activations is meant [inputs]; 0: they are in order. ``rows``
    of activations are multiplied at once. ``sizes`` are the decoder's own.
    """

    outputs: int
    inputs: int
    rows: int
    columns: int
    depth: int
    parts: int
    run: int
    shared: int
    block: int
    order: int
    sizes: tuple[int, ...]
