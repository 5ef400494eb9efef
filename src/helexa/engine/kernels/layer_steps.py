"""A decoder layer for one token or a few, as functions that are to be compiled.

Between products a layer is some sixty small operators, each a pass over a few kilobytes; products
of one row stream megabytes through the caches in between, so that each operator's code comes back
cold. Compiled together with them they cost far less. What is compiled for contexts of any length
has no product in it: that would be half as fast, as sizes that are no numbers keep a compiler for
C++ from taking scales out of loops.

T rows, K is the hidden size; all is float32 but what is cached.
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

UNITS = 16
"""Threads that share the values of one token's attention evenly."""
LINE_BYTES = 64
MOST_SUMS = 1024
"""What one loop over values sums up for a group: as many float32 numbers as registers can hold,
twice; with more, two lines of a row are read one after the other."""

Matrix = tuple[Recipe, ...]
"""One or several below each other; their tensors come separately."""


class Heads(NamedTuple):
    """H query heads on G key heads of D numbers; a ``gated`` query has a gate behind it."""

    heads: int
    groups: int
    dim: int
    gated: bool


class Opening(NamedTuple):
    """What is in front of attention, and what else there is.

    ``normed``: queries and keys are, with a gain [H + G, D] and a floor; ``biased``: the projection
    has a bias.
    """

    matrix: Matrix
    heads: Heads
    normed: bool
    biased: bool


class Closing(NamedTuple):
    """What is behind a mixer: its output matrix, and the MLP, None if that is no dense one.

    ``biased``: the output has a bias, and each matrix of the MLP.
    """

    out: Matrix
    mlp: tuple[Matrix, Matrix] | None
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
    """Norm, projection, and what comes between that and attention.

    x [T, K], cos and sin [T, 1, d] of `rotate`; ``tensors`` are gain and floor of the norm, the
    matrix's tensors, bias, gain and floor of queries and keys. → queries [T, H · D], keys and
    values [T, G, D], and the sigmoids of gates [T, H · D] if there are any.
    """
    taken = Taken(tensors)
    heads, groups, _, gated = form.heads
    y = taken.product(form.matrix, taken.norm(x), biased=form.biased)
    made = Projected(realised(y), heads, groups, gated)
    qk, v = made.split()
    if form.normed:
        qk = taken.norm(qk)
    turned = realised(rotate(qk, cos, sin))
    q, k = turned[:, :heads].flatten(1), turned[:, heads:]
    return (q, k, v) if made.gate is None else (q, k, v, made.gate.flatten(1).sigmoid())


def attend(form: Heads, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of one token over all up to itself: q [1, H · D], k and v [G, S, D] → [1, H · D].

    See `attention_definition`; the heads of a group share what they read. Groups are equally far
    apart, and S and how far are all that may change where this is compiled.

    Values are summed row by row, as they lie: column by column they are read far more slowly
    (benchmarks/README.md has the speed of reading).
    """
    heads, groups, dim, _ = form
    rows = realised(q * dim**-0.5).view(groups, heads // groups, 1, dim)
    shape = (groups, k.shape[1], dim)  # as numbers, which sizes of k are not
    keys = k.as_strided(shape, (k.stride(0), dim, 1)).float()
    scores = torch.stack([(row * keys).sum(-1) for row in rows.unbind(1)], 1)  # [G, H / G, S]
    shares = realised((scores - scores.amax(-1, keepdim=True)).exp())
    sums = weighted_sums(shares, v, dim)
    return (sums / shares.sum(-1, keepdim=True)).view(1, heads * dim)


def weighted_sums(shares: Tensor, v: Tensor, dim: int) -> Tensor:
    """Sums of values, v [G, S, D], by each head's shares [G, R, S] → [G, R, D].

    A compiler sums a few neighbouring dims over all tokens, in registers, and would walk through
    the values once for each few. So each line of a row is a sum of its own: sums over the same
    tokens become one loop, which reads row after row. Tokens are split into as many equal spans as
    give `UNITS` threads some, for models with few groups; what is left over is added by itself.
    """
    (groups, heads, _), total = shares.shape, v.shape[1]
    spans = -(-UNITS // groups)
    each, line = total // spans, LINE_BYTES // v.element_size()
    if heads * dim > MOST_SUMS:
        line *= 2
    strides = (v.stride(0), each * dim, dim, 1)
    values = v.as_strided((groups, spans, each, dim), strides).float()
    split = shares.as_strided((groups, heads, spans, each), (heads * total, total, each, 1))
    sums = [
        (share.unsqueeze(-1) * values[..., start : start + line]).sum(-2)
        for share in split.unbind(1)
        for start in range(0, dim, line)
    ]
    left = v[:, spans * each :].as_strided(
        (groups, 1, total - spans * each, dim), (v.stride(0), 0, dim, 1)
    )
    most = torch.cat(sums, -1).sum(1).view(groups, heads, dim)
    return most + (shares[..., spans * each :].unsqueeze(-1) * left.float()).sum(-2)


def open_delta(matrices: tuple[Matrix, Matrix], x: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Norm and the two projections of the gated delta rule: x [T, K] → [T, …] each.

    ``tensors``: gain and floor of the norm, then those of each matrix.
    """
    taken = Taken(tensors)
    hidden = realised(taken.norm(x))
    return tuple(taken.product(matrix, hidden) for matrix in matrices)


def close_layer(form: Closing, x: Tensor, rows: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
    """The output product and its sum, the norm, the MLP and its sum.

    x [T, K], rows [T, …] of the mixer; ``tensors`` are the output's and its bias, gain and floor of
    the norm, then gate_up's and down's, each with its bias. → [T, K]; without an MLP, x and its
    norm.
    """
    taken = Taken(tensors)
    x = realised(x + taken.product(form.out, rows, biased=form.biased[0]))
    hidden = realised(taken.norm(x))
    if form.mlp is None:
        return x, hidden
    gate_up, down = form.mlp
    middle = silu_mul(realised(taken.product(gate_up, hidden, biased=form.biased[1])))
    return (x + taken.product(down, middle, biased=form.biased[1]),)
