"""Laying the parts of a step out as one batch."""

from __future__ import annotations

import pytest
import torch

from helexa.engine.batch import Part, build_batch, cache_slots
from helexa.engine.cache.kv import KVCache

CPU = torch.device("cpu")


def test_parts_are_laid_end_to_end() -> None:
    parts = [
        Part([7, 8, 9], 0, [2], True),
        Part([5], 4, [6, 3], True),
        Part([1, 2], 3, [0, 1, 9], False),
    ]
    batch = build_batch(parts, 4, CPU)
    assert batch.token_ids.tolist() == [7, 8, 9, 5, 1, 2]
    assert batch.positions.tolist() == [0, 1, 2, 4, 3, 4]
    assert isinstance(batch.slots, torch.Tensor)
    assert batch.slots.tolist() == [8, 9, 10, 12, 3, 4]
    assert batch.logit_rows.tolist() == [2, 3]
    assert [(s.start, s.length, s.context) for s in batch.spans] == [
        (0, 3, 0),
        (3, 1, 4),
        (4, 2, 3),
    ]
    first, second, third = (span.slots for span in batch.spans)
    assert first == slice(8, 11)
    assert isinstance(second, torch.Tensor)
    assert second.tolist() == [24, 25, 26, 27, 12]
    assert third == slice(0, 5)
    assert batch.spans[2].rows == slice(4, 6)


def test_blocks_beyond_need_do_not_force_a_gather() -> None:
    assert cache_slots([4, 5], 8, 4, CPU) == slice(16, 24)
    batch = build_batch([([1, 2], 0, [3, 9, 1], True)], 4, CPU)
    assert batch.spans[0].slots == slice(12, 14)


@pytest.mark.parametrize(
    "part", [([], 3, [0], True), ([1], 4, [0], True), ([1, 2, 3, 4, 5], 0, [1], True)]
)
def test_a_part_without_tokens_or_room_is_refused(part: tuple) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        build_batch([part], 4, CPU)


def test_nothing_wanted_is_no_rows() -> None:
    assert build_batch([([1], 0, [0], False)], 4, CPU).logit_rows.shape == (0,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_the_cache_returns_what_was_written(dtype: torch.dtype) -> None:
    cache = KVCache(2, 5, 4, 3, 8, dtype, CPU)
    assert cache.nbytes == 2 * 2 * 5 * 4 * 3 * 8 * dtype.itemsize
    assert (cache.dtype, cache.device) == (dtype, CPU)
    k, v = torch.randn(6, 3, 8), torch.randn(6, 3, 8)
    slots = torch.tensor([8, 9, 10, 11, 4, 5])
    for layer in cache.layers:
        layer.write(slots, k, v)
    cache.layers[0].write(slots, k * 0, v * 0)
    expected = torch.stack((k, v)).transpose(1, 2).to(dtype)
    assert torch.equal(cache.layers[1].read(slots), expected)
    view = cache.layers[1].read(slice(8, 11))
    assert torch.equal(view, expected[:, :, :3])
    assert view.data_ptr() == cache.layers[1].k[8].data_ptr()


def test_prompts_are_listed_by_first_row_state_and_length() -> None:
    parts = [([1], 4, [0], True, 3), ([2, 3], 0, [1], True, 2), ([4, 5, 6], 1, [2], False, 0)]
    batch = build_batch(parts, 16, torch.device("cpu"))
    assert batch.prompts is not None
    assert batch.prompts.tolist() == [[1, 3], [2, 0], [2, 3]]
    assert build_batch(parts[:1], 16, torch.device("cpu")).prompts is None
