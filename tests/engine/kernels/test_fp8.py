"""Widening float8 by its bits is torch's conversion."""

from __future__ import annotations

import torch

from helexa.engine.kernels.fp8 import REBIASED, has_nan, shifted

CODES = torch.arange(256).to(torch.uint8).view(torch.float8_e4m3fn)
FINITE = torch.tensor([code for code in range(256) if code & 0x7F != 0x7F], dtype=torch.uint8)


def test_every_code_but_nan_is_widened_exactly() -> None:
    numbers = FINITE.view(torch.float8_e4m3fn)
    ours = shifted(numbers).float() * REBIASED
    assert torch.equal(ours, numbers.float())
    assert torch.equal(ours.signbit(), numbers.float().signbit())


def test_nan_is_found_wherever_it_is() -> None:
    assert has_nan(CODES)
    assert not has_nan(FINITE.view(torch.float8_e4m3fn))
    for code in (0x7F, 0xFF):
        numbers = torch.zeros(3, 2**20, dtype=torch.uint8)
        numbers[2, -1] = code
        assert has_nan(numbers.view(torch.float8_e4m3fn))
    assert not has_nan(torch.zeros(0, 4).to(torch.float8_e4m3fn))
