"""What is written in Q2_K and Q3_K is what the `gguf` package reads, close to what was meant."""

from __future__ import annotations

from collections.abc import Callable

import gguf
import numpy as np
import pytest

from tools.k_quants import Bytes, Floats, q2_k, q3_k

FORMATS = [
    (q2_k, gguf.GGMLQuantizationType.Q2_K, 0.37),
    (q3_k, gguf.GGMLQuantizationType.Q3_K, 0.18),
]


@pytest.mark.parametrize(("write", "type", "most"), FORMATS, ids=["q2_k", "q3_k"])
@pytest.mark.parametrize("scale", [1e-3, 1.0])
def test_read_back(
    scale: float,
    write: Callable[[Floats], Bytes],
    type: gguf.GGMLQuantizationType,
    most: float,
) -> None:
    values = np.random.default_rng(4).normal(0, scale, (6, 1024)).astype(np.float32)
    values[0, :300] = 0
    read = gguf.dequantize(write(values), type)
    assert read.shape == values.shape
    error = np.linalg.norm(read - values) / np.linalg.norm(values)
    assert error < most
    assert not read[0, :256].any()
