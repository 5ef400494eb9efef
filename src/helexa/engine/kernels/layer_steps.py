"""A decoder layer for few rows in two functions, before its mixer and behind it, to be compiled.

Between products a layer is some sixty small operators, each a pass over a few kilobytes; products
of one row stream megabytes through the caches in between, so that each operator's code comes back
cold. As one loop or a few they cost a fifth of that. T rows, hidden size K; all float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from helexa.engine.kernels.compiled import realised
from helexa.engine.kernels.placing import Projected
from helexa.engine.kernels.rms_norm import rms_norm
from helexa.engine.kernels.rope import rotate
from helexa.engine.kernels.silu_mul import silu_mul
from helexa.engine.quant.weight import Recipe, multiplied

if TYPE_CHECKING:
    from torch import Tensor

Matrix = tuple[Recipe, ...]
"""One or several below each other; their tensors come separately."""


class Opening(NamedTuple):
    """What is in front of attention: H query heads, G key heads; what else there is.

    ``normed``: queries and keys are, with a gain [H + G, D] and a floor; ``biased``: the projection
    has a bias; ``gated``: a query has a gate behind it.
    """

    matrix: Matrix
    heads: int
    groups: int
    gated: bool
    normed: bool
    biased: bool


class Closing(NamedTuple):
    """What is behind a mixer: its output matrix, and the MLP, None if that is no dense one.

    ``gated``: the mixer's rows are multiplied by sigmoids; ``biased``: each matrix has a bias.
    """

    out: Matrix
    mlp: tuple[Matrix, Matrix] | None
    gated: bool
    biased: tuple[bool, bool]


class Taken:
    """Tensors that are taken one after the other, as they were laid down."""

    def __init__(self, tensors: tuple[Tensor, ...]) -> None:
        self.left = list(tensors)

    def one(self) -> Tensor:
        return self.left.pop(0)

    def norm(self, x: Tensor) -> Tensor:
        """By gain and floor, the next two."""
        return rms_norm(x, self.one(), self.one())

    def product(self, matrix: Matrix, x: Tensor, *, biased: bool = False) -> Tensor:
        """By the tensors of ``matrix``, and a bias if there is one."""
        count = sum(recipe.taken for recipe in matrix)
        mine, self.left = self.left[:count], self.left[count:]
        y = multiplied(matrix, realised(x), mine)
        return y + self.one() if biased else y


def open_attention(
    form: Opening, x: Tensor, cos: Tensor, sin: Tensor, *tensors: Tensor
) -> tuple[Tensor, ...]:
    """Norm, projection, and what comes between projection and attention.

    x [T, K], cos and sin [T, 1, d] of `rotate`; gain and floor of the norm, the matrix's tensors,
    bias, gain and floor of queries and keys. → queries [T, H, D], keys and values [T, G, D], and
    the gates [T, H, D] if there are any.
    """
    taken = Taken(tensors)
    y = taken.product(form.matrix, taken.norm(x), biased=form.biased)
    made = Projected(realised(y), form.heads, form.groups, form.gated)
    qk, v = made.split()
    if form.normed:
        qk = taken.norm(qk)
    q, k = realised(rotate(qk, cos, sin)).tensor_split((form.heads,), 1)
    return (q, k, v) if made.gate is None else (q, k, v, realised(made.gate))


def open_delta(matrices: tuple[Matrix, Matrix], x: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Norm and the two projections of the gated delta rule: x [T, K] → [T, …] each.

    ``tensors``: gain and floor of the norm, then those of each matrix.
    """
    taken = Taken(tensors)
    hidden = realised(taken.norm(x))
    return tuple(taken.product(matrix, hidden) for matrix in matrices)


def close_layer(
    form: Closing, x: Tensor, rows: Tensor, *tensors: Tensor
) -> Tensor | tuple[Tensor, Tensor]:
    """The output product and its sum, the norm, the MLP and its sum.

    x [T, K], rows [T, …] of the mixer; its gates, the output's tensors and bias, gain and floor of
    the norm; then gate_up's and down's, each with its bias. → [T, K]; without an MLP, x and its
    norm.
    """
    taken = Taken(tensors)
    if form.gated:
        rows = rows * taken.one().reshape(rows.shape).sigmoid()
    x = realised(x + taken.product(form.out, rows, biased=form.biased[0]))
    hidden = realised(taken.norm(x))
    if form.mlp is None:
        return x, hidden
    gate_up, down = form.mlp
    middle = silu_mul(realised(taken.product(gate_up, hidden, biased=form.biased[1])))
    return x + taken.product(down, middle, biased=form.biased[1])


def attend(groups: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of one token: q [1, H, D], k and v [G, S, D], any strides → [1, H, D] float32.

    See `attention_definition`; the heads of a group share what they read.
    """
    _, heads, dim = q.shape
    rows = (q.float() * dim**-0.5).view(groups, heads // groups, 1, dim)
    keys, values = k.float(), v.float()
    scores = torch.stack([(one * keys).sum(-1) for one in rows.unbind(1)], 1)
    shares = (scores - scores.amax(-1, keepdim=True)).exp()
    totals = shares.sum(-1, keepdim=True)
    sums = [(one.unsqueeze(-1) * values).sum(1) for one in shares.unbind(1)]
    return (torch.stack(sums, 1) / totals).view(q.shape)
