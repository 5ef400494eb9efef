"""Headers are checked before anything is believed; every error names the file."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helexa.engine.checkpoint.table import TensorInfo, read_header, read_table
from helexa.errors import CheckpointError

Pack = Callable[..., bytes]
Write = Callable[[Path, dict[str, bytes]], Path]

TWO = {"a": ("F32", (2, 3)), "b": ("BF16", (4,))}
F = "model.safetensors"


def raw(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(*offsets: int, dtype: Any = "F32", shape: Any = (1,)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_a_whole_file(tmp_path: Path, pack: Pack, write: Write) -> None:
    data = pack(TWO)
    write(tmp_path, {F: data})
    start = len(data) - 32
    assert read_table(tmp_path) == {
        "a": TensorInfo("a", (2, 3), "F32", 24, F, start),
        "b": TensorInfo("b", (4,), "BF16", 8, F, start + 24),
    }


def test_every_truncation_is_noticed(tmp_path: Path, pack: Pack, write: Write) -> None:
    data = pack(TWO)
    for length in range(len(data)):
        write(tmp_path, {F: data[:length]})
        with pytest.raises(CheckpointError, match=r"model\.safetensors.*fetch it again"):
            read_header(tmp_path, F)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (raw({}, length=1 << 62), "not a whole"),
        (raw(b"{]"), "invalid JSON"),
        (raw(b"\xff\xfe"), "invalid JSON"),
        (raw(b"[" * 5000), "invalid JSON"),
        (raw([]), "not a JSON object"),
        (raw(b'{"a": 1, "a": 2}'), "twice"),
        (raw({"a": []}), "'a'"),
        (raw({"a": entry(0, 4, dtype=4)}, bytes(4)), "'a'"),
        (raw({"a": entry(0, 4, shape=["1"])}, bytes(4)), "'a'"),
        (raw({"a": entry(0, 4, shape=[-1])}, bytes(4)), "'a'"),
        (raw({"a": entry(0, 4, shape=[True])}, bytes(4)), "'a'"),
        (raw({"a": entry(0, 4, 8)}, bytes(8)), "'a'"),
        (raw({"a": entry(4, 0)}, bytes(4)), "'a' of F32"),
        (raw({"a": entry(0, 8)}, bytes(8)), "needs 4 bytes"),
        (raw({"a": entry(0, 4), "b": entry(2, 6)}, bytes(8)), "'a' and 'b' overlap"),
        (raw({"a": entry(0, 4), "b": entry(0, 4)}, bytes(8)), "'a' and 'b' overlap"),
        (raw({"a": entry(4, 8)}, bytes(4)), "truncated: tensor 'a'"),
    ],
)
def test_bad_headers(tmp_path: Path, write: Write, data: bytes, told: str) -> None:
    write(tmp_path, {F: data})
    with pytest.raises(CheckpointError, match=told) as caught:
        read_table(tmp_path)
    assert str(tmp_path / F) in caught.value.message


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=64))
def test_any_bytes_give_a_table_or_a_checkpoint_error(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes
) -> None:
    folder = tmp_path_factory.mktemp("noise")
    (folder / F).write_bytes(raw(noise))
    try:
        assert read_header(folder, F) == {}
    except CheckpointError as error:
        assert F in error.message


def test_an_empty_tensor_shares_its_place_and_unknown_dtypes_are_listed(
    tmp_path: Path, write: Write
) -> None:
    header = {"e": entry(0, 0, shape=[0, 3]), "a": entry(0, 4), "q": entry(4, 7, dtype="F4")}
    write(tmp_path, {F: raw(header, bytes(7))})
    assert [info.dtype for info in read_table(tmp_path).values()] == ["F32", "F32", "F4"]


def index(weight_map: Any) -> bytes:
    return json.dumps({"metadata": {}, "weight_map": weight_map}).encode()


def test_shards_are_followed_and_unlisted_tensors_kept(
    tmp_path: Path, pack: Pack, write: Write
) -> None:
    files = {
        "model.safetensors.index.json": index({"a": "x/1.safetensors", "b": "2.safetensors"}),
        "x/1.safetensors": pack({"a": ("F32", (1,)), "extra": ("F16", (1,))}),
        "2.safetensors": pack({"b": ("F32", (1,))}),
        F: b"the index wins",
    }
    table = read_table(write(tmp_path, files))
    assert {name: info.file for name, info in table.items()} == {
        "a": "x/1.safetensors",
        "b": "2.safetensors",
        "extra": "x/1.safetensors",
    }


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"{", "invalid JSON"),
        (b"[]", "weight_map"),
        (b"{}", "weight_map"),
        (index({"a": 1}), "weight_map"),
        (index({"a": "2.safetensors"}), r"shard 2\.safetensors is missing .* 'a'"),
        (index({"b": "1.safetensors"}), r"'b' is missing from .*1\.safetensors"),
        (index({"a": "../1.safetensors"}), "outside"),
        (index({"a": "/1.safetensors"}), "outside"),
        (index({"a": ""}), "outside"),
    ],
)
def test_bad_indexes(tmp_path: Path, pack: Pack, write: Write, data: bytes, told: str) -> None:
    files = {
        "model.safetensors.index.json": data,
        "1.safetensors": pack({"a": ("F32", (1,))}),
    }
    with pytest.raises(CheckpointError, match=told):
        read_table(write(tmp_path, files))


def test_a_folder_without_weights(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor"):
        read_table(tmp_path)
