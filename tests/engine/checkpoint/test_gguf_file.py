"""The heads of GGUF files: what the `gguf` package writes is read, and nothing hostile hurts."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helexa.engine.checkpoint.gguf_file import check_types, parts_of, read_gguf
from helexa.engine.checkpoint.gguf_types import BY_ID, OTHERS, READABLE
from helexa.errors import CheckpointError
from tests.engine.checkpoint.gguf_files import finish
from tests.waiting import least_s

VALUES: dict[str, tuple[gguf.GGUFValueType, Any]] = {
    "uint8": (gguf.GGUFValueType.UINT8, 250),
    "int8": (gguf.GGUFValueType.INT8, -3),
    "uint16": (gguf.GGUFValueType.UINT16, 65_000),
    "int16": (gguf.GGUFValueType.INT16, -300),
    "uint32": (gguf.GGUFValueType.UINT32, 2**32 - 1),
    "int32": (gguf.GGUFValueType.INT32, -(2**31)),
    "float32": (gguf.GGUFValueType.FLOAT32, 0.5),
    "bool": (gguf.GGUFValueType.BOOL, True),
    "string": (gguf.GGUFValueType.STRING, "Ein Häuschen 家"),
    "uint64": (gguf.GGUFValueType.UINT64, 2**64 - 1),
    "int64": (gguf.GGUFValueType.INT64, -(2**63)),
    "float64": (gguf.GGUFValueType.FLOAT64, 1e300),
}
LISTS: dict[str, list[Any]] = {
    "texts": ["a", "", "家"],
    "ints": [1, -2, 3],
    "floats": [0.5, -1.5],
    "bools": [True, False],
    "nested": [[1, 2], [3]],
    "none": [],
}


def write(path: Path) -> Path:
    """A small file with every kind of value and tensors of several types."""
    writer = gguf.GGUFWriter(path, "qwen3")
    for name, (kind, value) in VALUES.items():
        writer.add_key_value(f"of.{name}", value, kind)
    for name, items in LISTS.items():
        if items:
            writer.add_array(f"of.{name}", items)
    random = np.random.default_rng(0)
    writer.add_tensor("a", random.standard_normal((3, 5), dtype=np.float32))
    writer.add_tensor("b", random.standard_normal((2, 3, 4)).astype(np.float16))
    kind = gguf.GGMLQuantizationType.Q8_0
    blocks = gguf.quantize(random.standard_normal((4, 64), dtype=np.float32), kind)
    writer.add_tensor("c", blocks, raw_dtype=kind)
    return finish(writer, path)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("gguf") / "m.gguf")


def test_every_kind_of_value_is_read(file: Path) -> None:
    metadata = read_gguf(file).metadata
    assert metadata["general.architecture"] == "qwen3"
    assert {name: metadata[f"of.{name}"] for name in VALUES} == {
        name: value for name, (_, value) in VALUES.items()
    }
    for name, items in LISTS.items():
        assert metadata.get(f"of.{name}", []) == items


def test_tensors_are_where_the_package_finds_them(file: Path) -> None:
    ours, theirs = read_gguf(file).tensors, gguf.GGUFReader(file).tensors
    assert list(ours) == [tensor.name for tensor in theirs]
    for tensor in theirs:
        info = ours[tensor.name]
        assert info.shape == tuple(int(n) for n in reversed(tensor.shape))
        assert (info.dtype, info.nbytes) == (tensor.tensor_type.name, tensor.n_bytes)
        assert (info.start, info.file) == (tensor.data_offset, "m.gguf")


def test_types_are_those_of_the_package() -> None:
    for type in READABLE.values():
        kind = gguf.GGMLQuantizationType(type.id)
        assert kind.name == type.name
        assert gguf.GGML_QUANT_SIZES[kind] == (type.elements, type.nbytes)
    for id, name in OTHERS.items():
        assert gguf.GGMLQuantizationType(id).name == name
        assert id not in BY_ID


def test_a_large_vocabulary_is_read_in_no_time(tmp_path: Path) -> None:
    path = tmp_path / "big.gguf"
    writer = gguf.GGUFWriter(path, "qwen3")
    tokens = [f"token {i}" for i in range(150_000)]
    writer.add_token_list(tokens)
    writer.add_token_merges([f"{i} {i}" for i in range(150_000)])
    writer.add_token_scores([0.5] * 150_000)
    finish(writer, path)
    metadata = read_gguf(path).metadata
    assert least_s(lambda: read_gguf(path)) < 0.5
    assert metadata["tokenizer.ggml.tokens"] == tokens
    assert metadata["tokenizer.ggml.scores"][-1] == 0.5


def test_a_file_cut_anywhere_is_damaged(file: Path, tmp_path: Path) -> None:
    data, path = file.read_bytes(), tmp_path / "cut.gguf"
    for length in range(0, len(data) - 32, 7):
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match=r"cut\.gguf"):
            read_gguf(path)


def head(*parts: bytes, version: int = 3, tensors: int = 0, pairs: int = 0) -> bytes:
    """The beginning of a file, with what follows it."""
    return b"GGUF" + struct.pack("<IQQ", version, tensors, pairs) + b"".join(parts)


def text(value: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(value) if length is None else length) + value


def tensor(name: bytes, dims: tuple[int, ...], type: int = 0, offset: int = 0) -> bytes:
    sizes = struct.pack(f"<{len(dims)}Q", *dims)
    return text(name) + struct.pack("<I", len(dims)) + sizes + struct.pack("<IQ", type, offset)


def pair(key: bytes, type: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", type) + value


ARRAY_OF_TEXTS = struct.pack("<IQ", 8, 2**40)
ARRAYS = b"".join(struct.pack("<IQ", 9, 1) for _ in range(9))
HOSTILE = {
    "empty": (b"", "is empty"),
    "other magic": (b"GGML" + bytes(64), "is not a GGUF file"),
    "version 1": (head(version=1), "version 1"),
    "big endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big endian"),
    "many tensors": (head(tensors=2**60), "tensors"),
    "many metadata": (head(pairs=2**60), "metadata"),
    "long key": (head(text(b"k", 2**60), pairs=1), "a name of"),
    "long string": (head(pair(b"k", 8, text(b"v", 2**60)), pairs=1), "ends at byte"),
    "long array": (head(pair(b"k", 9, ARRAY_OF_TEXTS), pairs=1), "an array of"),
    "long numbers": (head(pair(b"k", 9, struct.pack("<IQ", 10, 2**23)), pairs=1), "ends at"),
    "deep array": (head(pair(b"k", 9, ARRAYS), pairs=1), "deep"),
    "unknown value": (head(pair(b"k", 77, bytes(8)), pairs=1), "unknown type 77"),
    "key twice": (head(*[pair(b"k", 0, b"1")] * 2, pairs=2), "occurs twice"),
    "key no text": (head(pair(b"\xff", 0, b"1"), pairs=1), "not UTF-8"),
    "alignment 0": (head(pair(b"general.alignment", 4, bytes(4)), pairs=1), "alignment"),
    "many dims": (head(tensor(b"t", (1,) * 9), bytes(64), tensors=1), "9 dims"),
    "huge dims": (head(tensor(b"t", (2**40, 2**40)), bytes(64), tensors=1), "has dims"),
    "beyond the end": (head(tensor(b"t", (2**40,)), bytes(64), tensors=1), "is truncated"),
    "far offset": (head(tensor(b"t", (1,), offset=2**63), bytes(64), tensors=1), "is truncated"),
    "crooked": (head(tensor(b"t", (1,), offset=4), bytes(99), tensors=1), "not aligned"),
    "half a block": (head(tensor(b"t", (33,), type=8), bytes(99), tensors=1), "multiples of 32"),
    "name twice": (head(*[tensor(b"t", (0,))] * 2, bytes(64), tensors=2), "occurs twice"),
    "overlap": (
        head(tensor(b"t", (64,)), tensor(b"u", (64,), offset=32), bytes(999), tensors=2),
        "overlap",
    ),
}


@pytest.mark.parametrize(("data", "told"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_files_are_damaged_by_name(tmp_path: Path, data: bytes, told: str) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=told) as caught:
        read_gguf(path)
    assert "bad.gguf" in str(caught.value)


@given(data=st.data())
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_changed_bytes_are_read_or_damaged(file: Path, tmp_path: Path, data: st.DataObject) -> None:
    whole = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] = data.draw(st.integers(0, 255))
    path = tmp_path / "changed.gguf"
    path.write_bytes(whole)
    try:
        read = read_gguf(path)
    except CheckpointError as error:
        assert "changed.gguf" in str(error)
    else:
        assert all(i.start + i.nbytes <= len(whole) for i in read.tensors.values())


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot read .*nowhere\.gguf"):
        read_gguf(tmp_path / "nowhere.gguf")


def test_types_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    data = tensor(b"fine", (4,)), tensor(b"odd", (256, 2), type=16, offset=32)
    path.write_bytes(head(*data, bytes(999), tensors=2))
    read = read_gguf(path)
    assert read.tensors["odd"].dtype == "IQ2_XXS"
    with pytest.raises(CheckpointError, match=r"tensor 'odd' in .*m\.gguf has type IQ2_XXS"):
        check_types(read)
    path.write_bytes(head(tensor(b"new", (256,), type=99), bytes(999), tensors=1))
    with pytest.raises(CheckpointError, match="has type type 99"):
        check_types(read_gguf(path))


def test_names_of_parts() -> None:
    assert parts_of("m.gguf") == ["m.gguf"]
    assert parts_of("m-00002-of-00003.gguf") == [f"m-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    assert parts_of("m-00001-of-99999.gguf") == ["m-00001-of-99999.gguf"]


@pytest.fixture
def split(tmp_path: Path) -> list[Path]:
    """A file in three parts."""
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "qwen3", split_max_tensors=2)
    writer.add_string("only.in", "the first")
    for i in range(5):
        writer.add_tensor(f"t{i}", np.full((2, i + 1), i, dtype=np.float32))
    finish(writer, tmp_path / "m.gguf")
    return sorted(tmp_path.iterdir())


def test_split_files_are_read_from_any_part(split: list[Path]) -> None:
    heads = [read_gguf(path) for path in split]
    assert len(heads) == 3
    for read in heads:
        assert read.metadata["only.in"] == "the first"
        assert read.tensors == heads[0].tensors
        assert read.files == tuple(path.name for path in split)
    assert list(heads[0].tensors) == [f"t{i}" for i in range(5)]


def test_parts_that_miss_or_do_not_fit_are_named(split: list[Path], tmp_path: Path) -> None:
    whole = split[1].read_bytes()
    split[1].unlink()
    with pytest.raises(CheckpointError, match=r"part m-00002-of-00003\.gguf is missing"):
        read_gguf(split[2])
    split[1].write_bytes(split[2].read_bytes())
    with pytest.raises(CheckpointError, match=r"m-00002-of-00003\.gguf is not part 2 of 3"):
        read_gguf(split[0])
    split[1].write_bytes(whole)
    renamed = split[0].rename(tmp_path / "other.gguf")
    with pytest.raises(CheckpointError, match="one of 3 parts, but not named"):
        read_gguf(renamed)
