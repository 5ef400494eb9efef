"""What a runner tells of a step beside its logits: how long the model took, and what it lacked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from helexa.engine.allocation import refusals_as_memory_errors
from helexa.engine.batch import Batch, Part, build_batch
from helexa.engine.runner import Runner

STEP = [([1, 2, 3], 0, [0], True)]


class SlowModel:
    """Takes seconds of a clock of its own: 1 to make a batch, 10 and 100 to compute."""

    def __init__(self, forward: Callable[[], object] = lambda: None) -> None:
        self.now_s = 0.0
        self._forward = forward

    def batch(self, parts: Sequence[Any], block_size: int) -> Batch:
        self.now_s += 1
        return build_batch(parts, block_size, torch.device("cpu"))

    def __call__(self, batch: object, cache: object) -> Tensor:
        self._forward()
        self.now_s += 10
        return torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])

    def logits(self, hidden: Tensor) -> Tensor:
        self.now_s += 100
        return hidden + 1


def runner_of(model: SlowModel) -> Runner:
    cache: Any = SimpleNamespace(block_size=16)
    stand_in: Any = model
    return Runner(stand_in, cache, clock=lambda: model.now_s)


def test_the_models_time_leaves_out_the_making_of_the_batch() -> None:
    model = SlowModel()
    runner = runner_of(model)
    assert runner.run(STEP).shape == (1, 2)
    assert runner.model_s == 110
    assert model.now_s == 111


def test_what_logits_are_made_of_is_left_to_be_read() -> None:
    runner = runner_of(SlowModel())
    assert runner.run([Part([1, 2, 3], 0, [0], 2)]).tolist() == [[4, 5], [6, 7]]
    assert runner.hidden.tolist() == [[3, 4], [5, 6]]


def test_E094_host_memory_that_torch_is_refused_is_a_memory_error() -> None:
    runner = runner_of(SlowModel(lambda: torch.empty(10**15)))
    with pytest.raises(MemoryError, match="DefaultCPUAllocator") as caught:
        runner.run(STEP)
    assert type(caught.value.__cause__) is RuntimeError


@pytest.mark.parametrize(
    "error", [RuntimeError("launch failed"), torch.OutOfMemoryError("full"), ValueError()], ids=repr
)
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, refusals_as_memory_errors():
        raise error
    assert caught.value is error
