"""Numbers that cross between host and device."""

from __future__ import annotations

import pytest
import torch

from helexa.engine.staging import received, sent

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", DEVICES)
def test_numbers_arrive(device: str) -> None:
    like = torch.zeros(1, device=device)
    ids = sent([3, 2**40, -1], like, torch.int64)
    assert (ids.device.type, ids.dtype) == (device, torch.int64)
    assert ids.tolist() == [3, 2**40, -1]
    assert sent([0.5, -2.0], like, torch.float32).tolist() == [0.5, -2.0]
    assert sent([], like, torch.int64).shape == (0,)


@pytest.mark.parametrize("device", DEVICES)
def test_both_come_back_exactly(device: str) -> None:
    odd = [float("nan"), float("inf"), -float("inf"), 0.1, 2.0**-149]
    floats = torch.tensor(odd, device=device)
    ids = torch.tensor([0, 2**53 - 1, 7, 128, 1], device=device)
    back, numbers = received(floats, ids)
    assert torch.equal(back[1:], torch.tensor(odd[1:]))
    assert back[0].isnan()
    assert numbers.tolist() == ids.tolist()
    assert {back.device.type, numbers.device.type} == {"cpu"}
