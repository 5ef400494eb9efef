"""Attention of one token as a function, compiled for any context."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from helexa.engine.kernels.attention import attention_definition
from helexa.engine.kernels.compiled import Compiler
from helexa.engine.kernels.layer_steps import UNITS, Heads, attend
from tests.engine.compilers import needs_compiler

SHAPES = [
    Heads(16, 8, 48, False),
    Heads(3, 3, 48, False),
    Heads(4, 1, 64, False),
    Heads(5, 1, 256, False),
    Heads(16, 1, 128, False),
]
by_shape = pytest.mark.parametrize("heads", SHAPES, ids=str)
HALF = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def check(heads: Heads, run: object, context: int, slots: int, dtype: torch.dtype) -> None:
    """Of a cache that has more room than is used, and no numbers there."""
    q = drawn(1, heads.heads * heads.dim)
    kv = drawn(heads.groups, 2, slots, heads.dim).to(dtype).transpose(0, 1)
    kv[:, :, :2] = kv[:, :, 2 + context :] = torch.nan
    kv = kv[:, :, 2 : 2 + context]
    found = run(q, *kv)  # type: ignore[operator]  # a kernel or a function
    wanted = attention_definition(q.view(1, heads.heads, heads.dim).double(), kv.double())
    assert torch.allclose(found, wanted.view(1, -1).float(), rtol=1e-5, atol=1e-5)


@HALF
@by_shape
@settings(max_examples=10, deadline=None)
@given(context=st.integers(1, 70), room=st.integers(2, 9))
def test_attention_is_its_definition(
    heads: Heads, dtype: torch.dtype, context: int, room: int
) -> None:
    check(heads, lambda q, k, v: attend(heads, q, k, v), context, context + room, dtype)


@needs_compiler
@pytest.mark.parametrize(
    ("heads", "dtype"), [(SHAPES[0], torch.float16), (SHAPES[3], torch.bfloat16)], ids=str
)
def test_attention_is_compiled_once_for_every_context(heads: Heads, dtype: torch.dtype) -> None:
    """Of any length around what threads share evenly, in registers or not."""
    compiler = Compiler()
    kv = torch.empty(2, heads.groups, 4099, heads.dim, dtype=dtype, device="meta")[:, :, :131]
    example = [torch.empty(1, heads.heads * heads.dim), *kv]
    kernel = compiler.kernel(attend, (heads,), example, free=(1, 2))
    assert len(compiler) == 0
    kernel.wanted = True
    assert list(compiler.compile()) == [1]
    assert kernel.run is not kernel.definition
    for context in (*range(1, 2 * UNITS + 3), 127, 128, 131, 300, 1025):
        check(heads, kernel, context, context + 2, dtype)
        check(heads, kernel, context, 4099, dtype)
