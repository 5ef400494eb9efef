"""Tensors come to the host as they were when their copy began."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from helexa.engine.download import Download, fetch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def groups() -> list[list[torch.Tensor]]:
    made = [
        [torch.tensor([[1.5, -torch.inf], [3.0, 2.0**-140]])],
        [],
        [torch.tensor([151935, 2**31]), torch.tensor(7.0, dtype=torch.float64)],
    ]
    return [[tensor.to(DEVICE) for tensor in group] for group in made]


@pytest.mark.parametrize("way", [fetch, lambda some: Download(some).wait()], ids=["now", "later"])
def test_arrays_have_the_tensors_shapes_and_values(way: Callable[..., Any]) -> None:
    found = way(groups())
    assert [[array.tolist() for array in group] for group in found] == [
        [[[1.5, -torch.inf], [3.0, 2.0**-140]]],
        [],
        [[151935, 2**31], 7.0],
    ]


def test_what_is_done_to_the_tensors_later_does_not_show() -> None:
    some = groups()
    coming = Download(some)
    for group in some:
        for tensor in group:
            tensor.zero_()
    assert coming.wait()[2][0].tolist() == [151935, 2**31]
