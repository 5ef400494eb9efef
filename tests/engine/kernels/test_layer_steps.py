"""Attention of one token as a function, compiled for any context; a few rows at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from helexa.engine.kernels.attention import attention_definition
from helexa.engine.kernels.compiled import Compiler
from helexa.engine.kernels.few_rows import FEW, few_rows
from helexa.engine.kernels.layer_steps import Heads, attend
from helexa.engine.kernels.streamed import streamed_product
from tests.engine.compilers import needs_compiler

DIM = 48
SHAPES = [Heads(4, 2, DIM, False), Heads(3, 3, DIM, False), Heads(4, 1, DIM, False)]
by_shape = pytest.mark.parametrize("heads", SHAPES, ids=str)
CACHE = torch.float16


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def check(heads: Heads, run: object, context: int, slots: int) -> None:
    """Of a cache that has more room than is used."""
    q = drawn(1, heads.heads * DIM)
    kv = drawn(heads.groups, 2, slots, DIM).to(CACHE).transpose(0, 1)[:, :, 2 : 2 + context]
    found = run(q, *kv)  # type: ignore[operator]  # a kernel or a function
    wanted = attention_definition(q.view(1, heads.heads, DIM).double(), kv.double())
    assert torch.allclose(found, wanted.view(1, -1).float(), rtol=1e-5, atol=1e-5)


@by_shape
def test_attention_is_its_definition(heads: Heads) -> None:
    check(heads, lambda q, k, v: attend(heads, q, k, v), 19, 64)


@needs_compiler
@pytest.mark.parametrize("heads", SHAPES[:1], ids=str)
def test_attention_is_compiled_once_for_every_context(heads: Heads) -> None:
    compiler = Compiler()
    kv = torch.empty(2, heads.groups, 4099, DIM, dtype=CACHE, device="meta")[:, :, :131]
    example = [torch.empty(1, heads.heads * DIM), *kv]
    kernel = compiler.kernel(attend, (heads,), example, free=(1, 2))
    assert len(compiler) == 0
    kernel.wanted = True
    assert list(compiler.compile()) == [1]
    assert kernel.run is not kernel.definition
    for context, slots in [(1, 16), (2, 40), (15, 64), (131, 4099), (300, 512)]:
        check(heads, kernel, context, slots)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.bfloat16])
def test_rows_are_padded_and_cut(dtype: torch.dtype) -> None:
    """One by its own kernel, others by that of a few, each as often as needed."""
    matrix = drawn(24, 40).to(dtype)
    compiler = Compiler()
    few = few_rows(compiler, streamed_product, (), lambda rows: [torch.empty(rows, 40)], (matrix,))
    assert len(compiler) == 0
    few.want()
    assert list(compiler.compile()) == [1, 2]
    for rows in range(1, 2 * FEW + 2):
        x = drawn(rows, 40)
        (found,) = few(x)
        assert found.shape == (rows, 24)
        assert torch.allclose(found, (x.double() @ matrix.double().T).float(), atol=1e-5)
