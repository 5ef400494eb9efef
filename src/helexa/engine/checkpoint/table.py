"""Which tensors a folder of safetensors files holds, read from the headers alone.

Layout of a file: u64 header length (little endian), that many bytes of JSON, the data.
Source: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from helexa.engine.checkpoint.files import reading
from helexa.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000
ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "BOOL": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1,
}  # fmt: skip
FETCH_AGAIN = "the file is damaged or incomplete; fetch it again"


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One stored tensor; ``file`` is the name within the folder, ``start`` its byte there."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    file: str
    start: int


def read_table(folder: Path) -> dict[str, TensorInfo]:
    """Every tensor of the folder's safetensors weights, by name.

    Follows `model.safetensors.index.json` if there is one, else takes `model.safetensors`. Raises
    CheckpointError naming the file, and the tensor where one is concerned.
    """
    with reading(folder):
        single, sharded = (folder / SINGLE).is_file(), (folder / INDEX).is_file()
    if not sharded:
        if not single:
            raise CheckpointError(
                f"no weights in {folder}: neither {SINGLE} nor {INDEX} is there",
                hint="fetch the model again, or point to the folder that holds them",
            )
        return read_header(folder, SINGLE)
    wanted = read_index(folder / INDEX)
    shards = {file: read_header(folder, file) for file in sorted(set(wanted.values()))}
    table = {}
    for name, file in wanted.items():
        if name not in shards[file]:
            raise CheckpointError(
                f"tensor {name!r} is missing from {folder / file}, where {INDEX} places it",
                hint="index and shards do not belong together; fetch the model again",
            )
        table[name] = shards[file][name]
    for shard in shards.values():
        for name, info in shard.items():
            table.setdefault(name, info)  # unlisted tensors are still the loader's to judge
    return table


def read_index(path: Path, exists: Callable[[str], bool] | None = None) -> dict[str, str]:
    """The index's map from tensor to shard; each shard ``exists``, by default beside the index."""
    exists = exists or (lambda file: (path.parent / file).is_file())
    with reading(path):
        index = parse(path.read_bytes(), path)
    shards = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(shards, dict) or not all(isinstance(file, str) for file in shards.values()):
        raise CheckpointError(f"{path} has no usable `weight_map`", hint=FETCH_AGAIN)
    for name, file in shards.items():
        parts = PurePosixPath(file).parts
        if not parts or PurePosixPath(file).is_absolute() or ".." in parts or "\\" in file:
            raise CheckpointError(
                f"{path} places tensor {name!r} in {file!r}, outside the model's folder",
                hint="do not use this checkpoint",
            )
        with reading(path.parent / file):
            present = exists(file)
        if not present:
            raise CheckpointError(
                f"shard {file} is missing from {path.parent} (it holds tensor {name!r})",
                hint="the download is incomplete; fetch the model again",
            )
    return shards


def read_header(folder: Path, file: str) -> dict[str, TensorInfo]:
    """The tensors of one safetensors file, every range checked against the file's size."""
    path = folder / file
    with reading(path), path.open("rb") as stream:
        size = path.stat().st_size
        start = stream.read(LENGTH_BYTES)
        length = struct.unpack("<Q", start)[0] if len(start) == LENGTH_BYTES else 0
        if not 2 <= length <= min(size - LENGTH_BYTES, MAX_HEADER_BYTES):
            raise CheckpointError(
                f"{path} is not a whole safetensors file ({size} bytes, header of {length})",
                hint=FETCH_AGAIN,
            )
        header = parse(stream.read(length), path)
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: the header is not a JSON object", hint=FETCH_AGAIN)
    header.pop("__metadata__", None)
    base = LENGTH_BYTES + length
    table = {}
    for name, entry in header.items():
        dtype, shape, begin, end = read_entry(path, name, entry)
        table[name] = TensorInfo(name, shape, dtype, end - begin, file, base + begin)
    check_ranges(path, table.values(), size)
    return table


def parse(data: bytes, path: Path) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a key occurs twice")
        return found

    try:
        return json.loads(data, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} holds invalid JSON: {error}", hint=FETCH_AGAIN) from error


def read_entry(path: Path, name: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    """The dtype, shape and data range of one header entry."""
    fields: Mapping[str, Any] = entry if isinstance(entry, dict) else {}
    dtype: Any = fields.get("dtype")
    shape: Any = fields.get("shape")
    offsets: Any = fields.get("data_offsets")
    if not (isinstance(dtype, str) and sizes(shape) and sizes(offsets) and len(offsets) == 2):
        raise CheckpointError(
            f"{path}: malformed header entry of tensor {name!r}", hint=FETCH_AGAIN
        )
    begin, end = offsets
    needed = math.prod(shape) * ITEM_BYTES[dtype] if dtype in ITEM_BYTES else end - begin
    if begin > end or end - begin != needed:
        raise CheckpointError(
            f"{path}: tensor {name!r} of {dtype} {list(shape)} needs {needed} bytes, "
            f"its range {begin}:{end} has {end - begin}",
            hint=FETCH_AGAIN,
        )
    return dtype, tuple(shape), begin, end


def sizes(value: Any) -> bool:
    """Whether ``value`` is a list of integers ≥ 0."""
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def check_ranges(path: Path, infos: Iterable[TensorInfo], size: int) -> None:
    """Raise unless the tensors lie within the file and no two overlap."""
    previous = None
    for info in sorted(infos, key=lambda info: (info.start, info.nbytes)):
        end = info.start + info.nbytes
        if end > size:
            raise CheckpointError(
                f"{path} is truncated: tensor {info.name!r} ends at byte {end}, the file at {size}",
                hint=FETCH_AGAIN,
            )
        if previous and info.start < previous.start + previous.nbytes:
            raise CheckpointError(
                f"{path}: tensors {previous.name!r} and {info.name!r} overlap", hint=FETCH_AGAIN
            )
        previous = info
