"""Scales and offsets with which a group of numbers is rounded best, in the least squares sense.

Groups lie along the first axis: [n, ...], n a power of two. Everything is computed elementwise, so
that the result does not depend on how torch splits the work over threads: sums are made by halving,
and no operator is used that fuses a product with a sum.

For given integers q the best scale of x ≈ s·q is Σxq / Σq², and the error it leaves is
Σx² − (Σxq)² / Σq². So the search is over a few starting scales, each giving integers that give a
best scale; the one that leaves least is taken. With an offset it is the same for two unknowns.
"""

from __future__ import annotations

import torch
from torch import Tensor

SYMMETRIC_STEPS = (0.0, -0.6, -0.3, 0.3, 0.6, 0.9, 1.2, 1.5, 1.8)
"""Candidates: by how much the integer that the largest number becomes exceeds the largest there is.

Beyond it a number is cut off, which costs it an error and gains all others a finer scale.
"""
AFFINE_STEPS = (0.0, -0.5, 0.4, 0.8, 1.2, 1.6, 2.0, 2.5)
"""The same for the distance from least to largest number; half is cut off at either end."""


def halved_sum(x: Tensor) -> Tensor:
    """The sum over the first axis, of a length that is a power of two, in an order all its own."""
    while len(x) > 1:
        left, right = x.chunk(2)
        x = left + right
    return x[0]


def quotient(x: Tensor, y: Tensor) -> Tensor:
    """x / y, and 0 where y is 0."""
    return x / torch.where(y == 0, torch.inf, y)


def fit_symmetric(x: Tensor, low: int) -> Tensor:
    """The best s of x ≈ s·q with integers low ≤ q < −low: x [n, ...] → [...].

    It may be negative, as there is one more integer below zero than above.
    """
    least, most = x.amin(0), x.amax(0)
    extreme = torch.where(-least > most, least, most)
    best, gain = torch.zeros_like(extreme), torch.zeros_like(extreme)
    for step in SYMMETRIC_STEPS:
        q = quotient(x, extreme / (low - step)).round_().clamp_(low, -low - 1)
        products, squares = halved_sum(x * q), halved_sum(q * q)
        scale = quotient(products, squares)
        explained = products * scale
        better = explained > gain
        best = torch.where(better, scale, best)
        gain = torch.where(better, explained, gain)
    return best


def fit_affine(x: Tensor, top: int, *, signed: bool = False) -> tuple[Tensor, Tensor]:
    """The best s and b of x ≈ s·q + b with integers 0 ≤ q ≤ top: x [n, ...] → [...] both.

    s is not negative; nor is −b, unless ``signed``.
    """
    least, most = x.amin(0), x.amax(0)
    if not signed:
        least, most = least.clamp_max(0), most.clamp_min(0)
    count, total = len(x), halved_sum(x)
    best_s, best_b = torch.zeros_like(total), total / count
    if not signed:
        best_b = best_b.clamp_max(0)
    gain = best_b * total
    middle, width = (least + most) / 2, most - least
    for step in AFFINE_STEPS:
        scale = width / (top + step)
        bottom = middle - scale * (top / 2)
        q = quotient(x - bottom, scale).round_().clamp_(0, top)
        q_sum, squares, products = halved_sum(q), halved_sum(q * q), halved_sum(x * q)
        scale, offset = solved(squares, q_sum, torch.full_like(q_sum, count), products, total)
        if not signed:
            scale = torch.where(offset >= 0, quotient(products, squares), scale)
            offset = offset.clamp_max(0)
        explained = scale * products + offset * total
        better = (explained > gain) & (scale >= 0)
        best_s = torch.where(better, scale, best_s)
        best_b = torch.where(better, offset, best_b)
        gain = torch.where(better, explained, gain)
    return best_s, best_b


def solved(aa: Tensor, ab: Tensor, bb: Tensor, ax: Tensor, bx: Tensor) -> tuple[Tensor, Tensor]:
    """The u, v with which Σ (x − u·a − v·b)² is least, from the sums of products of a, b and x.

    Zero both where a and b are in proportion.
    """
    determinant = aa * bb - ab * ab
    return (
        quotient(ax * bb - bx * ab, determinant),
        quotient(aa * bx - ab * ax, determinant),
    )
