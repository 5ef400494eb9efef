"""Norm, rotation and activation against the reference implementation's."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb

from helexa.engine.kernels.rms_norm import norm_constants, rms_norm
from helexa.engine.kernels.rope import LARGE, rotate
from helexa.engine.kernels.silu_mul import silu_mul

ROWS = [(1, 8), (3, 127), (17, 1024)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "size"), ROWS)
def test_rms_norm_is_the_reference_s(rows: int, size: int, dtype: torch.dtype) -> None:
    x, weight = (torch.randn(rows, size) * 3).to(dtype), torch.randn(size).to(dtype)
    norm = LlamaRMSNorm(size, eps=1e-5)
    norm.weight.data = weight
    torch.testing.assert_close(rms_norm(x, *norm_constants(weight, 1e-5)), norm(x).detach())


def test_rms_norm_of_zeros_is_zero() -> None:
    assert torch.equal(
        rms_norm(torch.zeros(2, 8), *norm_constants(torch.ones(8), 1e-6)), torch.zeros(2, 8)
    )


def test_rms_norm_takes_a_weight_per_head() -> None:
    x, weights = torch.randn(5, 3, 16), torch.randn(3, 16)
    heads = [rms_norm(x[:, i], *norm_constants(weights[i], 1e-6)) for i in range(3)]
    assert torch.equal(rms_norm(x, *norm_constants(weights, 1e-6)), torch.stack(heads, 1))


@pytest.mark.parametrize("dim", [2, 16, 32])
def test_rotation_is_the_reference_s(dim: int) -> None:
    x = torch.randn(7, 3, 32)
    turned, angles = x[None, ..., :dim], torch.randn(7, dim // 2)
    cos, sin = (torch.cat((f(angles), f(angles)), -1) for f in (torch.cos, torch.sin))
    expected, _ = apply_rotary_pos_emb(turned, turned, cos[None], sin[None], 2)
    half = torch.cat((-sin[:, : dim // 2], sin[:, dim // 2 :]), -1)
    ours = rotate(x, cos[:, None], half[:, None])
    torch.testing.assert_close(ours[..., :dim], expected[0], atol=1e-6, rtol=1e-6)
    assert torch.equal(ours[..., dim:], x[..., dim:])


def test_rotation_keeps_16_bits() -> None:
    x = torch.randn(2, 1, 4).bfloat16()
    assert rotate(x, torch.ones(2, 1, 4), torch.zeros(2, 1, 4)).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("turned", [8, 12])
def test_many_tokens_are_rotated_like_few(dtype: torch.dtype, turned: int) -> None:
    tokens = LARGE // (3 * turned) + 1
    generator = torch.Generator().manual_seed(turned)
    x = torch.randn(tokens, 5, 12, generator=generator)[:, 1:4].to(dtype)
    cos, sin = (torch.randn(tokens, 1, turned, generator=generator) for _ in range(2))
    parts = [rotate(*each) for each in zip(x.split(99), cos.split(99), sin.split(99), strict=True)]
    torch.testing.assert_close(rotate(x, cos, sin), torch.cat(parts), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("rows", "size"), ROWS)
def test_silu_mul(rows: int, size: int) -> None:
    x = torch.randn(rows, 2 * size) * 4
    before = x.clone()
    expected = F.silu(x[:, :size]) * x[:, size:]
    assert torch.equal(silu_mul(x), expected)
    assert torch.equal(x, before)
