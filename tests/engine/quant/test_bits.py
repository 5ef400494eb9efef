"""Numbers come out of words as they were put in, wherever they lie."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from helexa.engine.quant.bits import unpack
from tools.quantised import stream


@given(
    bits=st.integers(1, 8),
    data=st.data(),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 70)),
)
def test_numbers_come_out_as_they_were_put_in(
    bits: int, data: st.DataObject, shape: tuple[int, int]
) -> None:
    numbers = data.draw(arrays.arrays(np.int64, shape, elements=st.integers(0, 2**bits - 1)))
    found = unpack(stream(numbers, bits), bits, shape[1])
    assert found.dtype == torch.uint8
    assert found.tolist() == numbers.tolist()


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 8])
def test_all_there_are_by_default(bits: int) -> None:
    words = torch.full((2, 3), -1, dtype=torch.int32)
    assert unpack(words, bits).shape == (2, 96 // bits)
    assert (unpack(words, bits) == 2**bits - 1).all()
    assert unpack(words.T.contiguous().T, bits).shape == (2, 96 // bits)
