"""Files of weights that the `safetensors` library reads, cut into shards."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from helexa.engine.checkpoint.safetensors_writer import (
    Shard,
    StoredTensor,
    index_of,
    is_ours,
    sharded,
)
from helexa.engine.checkpoint.table import read_table

DTYPES = {"U8": np.uint8, "F16": np.float16, "F32": np.float32}


def tensor(name: str, dtype: str, shape: tuple[int, ...]) -> StoredTensor:
    """Numbers that count up, in two pieces."""
    values = np.arange(np.prod(shape), dtype=DTYPES[dtype]).reshape(shape)
    data = values.tobytes()
    return StoredTensor(name, dtype, shape, len(data), lambda: (data[:3], data[3:]))


def test_others_read_what_is_written(tmp_path: Path) -> None:
    tensors = [
        tensor("a.weight", "U8", (3, 7)),
        tensor("ü", "F16", (5,)),
        tensor("b", "F32", (2, 1, 3)),
        tensor("none", "F32", (0, 4)),
    ]
    shards = sharded(tensors, 25)
    told: list[int] = []
    for shard in shards:
        shard.write(tmp_path, told.append)
        assert (tmp_path / shard.file).stat().st_size == shard.nbytes
        assert is_ours(tmp_path / shard.file)
    assert sum(told) == sum(shard.nbytes for shard in shards)
    index = index_of(shards)
    assert index is not None
    (tmp_path / "model.safetensors.index.json").write_text(index)
    found = {n: v for shard in shards for n, v in load_file(tmp_path / shard.file).items()}
    table = read_table(tmp_path)
    assert found.keys() == table.keys() == {t.name for t in tensors}
    for each in tensors:
        assert found[each.name].shape == each.shape
        assert found[each.name].tobytes() == b"".join(each.pieces())
        assert table[each.name].start % found[each.name].itemsize == 0


@given(sizes=st.lists(st.integers(0, 50), min_size=1, max_size=30), limit=st.integers(1, 80))
def test_shards_keep_order_and_limit(sizes: list[int], limit: int) -> None:
    tensors = [tensor(str(i), "U8", (size,)) for i, size in enumerate(sizes)]
    shards = sharded(tensors, limit)
    assert [t for shard in shards for t in shard.tensors] == tensors
    for shard in shards:
        assert len(shard.tensors) == 1 or sum(t.nbytes for t in shard.tensors) <= limit
    for left, right in pairwise(shards):
        assert sum(t.nbytes for t in left.tensors) + right.tensors[0].nbytes > limit
    assert len({shard.file for shard in shards}) == len(shards)
    index = index_of(shards)
    assert (index is None) == (len(shards) == 1) == (shards[0].file == "model.safetensors")
    if index is not None:
        places = json.loads(index)["weight_map"]
        assert all(places[t.name] == shard.file for shard in shards for t in shard.tensors)


def test_pieces_that_are_too_few_are_an_error(tmp_path: Path) -> None:
    short = StoredTensor("x", "U8", (4,), 4, lambda: (b"abc",))
    with pytest.raises(ValueError, match="x: 3 bytes, not 4"):
        Shard("model.safetensors", (short,)).write(tmp_path, lambda nbytes: None)
