"""That oneDNN's order is what is thought, is looked at, and may be read as long as one likes."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from helexa.engine.kernels import onednn_order
from helexa.engine.kernels.narrow_product import multiplies_bfloat16, reorder
from helexa.engine.kernels.onednn_order import (
    in_blocks,
    is_paired,
    looked_at,
    padded_shape,
    words_of,
)
from helexa.engine.kernels.paired import paired_matrix, paired_words

pytestmark = pytest.mark.skipif(
    not multiplies_bfloat16(), reason="this CPU has no instructions for it"
)


def matrix(rows: int, columns: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows)).bfloat16()


@pytest.mark.parametrize(
    "shape", [(64, 64), (192, 320), (1088, 576), (64, 3072), (4096, 64), (100, 64), (64, 1000)]
)
def test_the_words_of_a_matrix(shape: tuple[int, int]) -> None:
    """Whole blocks or not: there are zeros behind."""
    if not is_paired(*shape):
        pytest.skip("oneDNN has another order here")
    weight = matrix(*shape)
    words = in_blocks(reorder(weight), shape)
    laid_out = paired_matrix(words)
    assert laid_out.shape == padded_shape(*shape)
    assert torch.equal(laid_out[: shape[0], : shape[1]], weight)
    assert laid_out[shape[0] :].count_nonzero() == laid_out[:, shape[1] :].count_nonzero() == 0


def test_memory_lives_as_long_as_its_words() -> None:
    weight = matrix(512, 1024)
    words = words_of(reorder(weight))  # of which nothing else is left
    gc.collect()
    others = [torch.full((512, 1024), 7.0, dtype=torch.bfloat16) for _ in range(20)]
    expected = paired_words(weight) if is_paired(512, 1024) else in_other_order(weight)
    assert torch.equal(words.view(expected.shape), expected)
    assert len(others) == 20


def in_other_order(weight: torch.Tensor) -> torch.Tensor:
    """Whatever it is here."""
    return words_of(reorder(weight)).clone()


def plain(weight: torch.Tensor) -> torch.Tensor:
    """A "reordered" matrix that is nothing but the matrix."""
    return weight.clone()


def wrong_at_the_end(weight: torch.Tensor) -> torch.Tensor:
    """In the order that is expected, but for the last number."""
    words = paired_words(weight).contiguous()
    words.view(-1)[-1] += 1
    return words


def refused(*_: Any) -> None:
    raise RuntimeError("no such operator")


def test_another_order_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at.cache_clear()
    with monkeypatch.context() as patched:
        patched.setattr(onednn_order, "words_of", lambda found: found.view(torch.int32).flatten())
        patched.setattr(onednn_order, "reorder", plain)
        assert not is_paired(256, 128)
        patched.setattr(onednn_order, "reorder", lambda weight: paired_words(weight).contiguous())
        assert is_paired(128, 256)
        assert is_paired(2112, 64)  # which is not compared at once
        patched.setattr(onednn_order, "reorder", lambda weight: wrong_at_the_end(weight))
        assert not is_paired(2176, 64)
        patched.setattr(onednn_order, "reorder", refused)
        assert not is_paired(256, 256)
    looked_at.cache_clear()


def test_threads_that_load_one_shape_look_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at.cache_clear()
    looks: list[torch.Tensor] = []

    def noted(weight: torch.Tensor) -> torch.Tensor:
        looks.append(weight)
        return reorder(weight)

    monkeypatch.setattr(onednn_order, "reorder", noted)
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(is_paired, [1024] * 8, [512] * 8))
    assert len(found) == len(looks) == 1


def test_nobody_elses_random_numbers_change() -> None:
    looked_at.cache_clear()
    before = torch.random.get_rng_state()
    is_paired(128, 64)
    assert torch.equal(torch.random.get_rng_state(), before)
