"""How much memory loading takes in each format: the weights once, and at most one shard more.

Counted is all that is resident, with the pages of mapped files: FP8 weights and embeddings are such
pages, and a loader that makes another layout of them is to give them back as it goes. What is
allocated never comes near another shard.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from benchmarks.format_memory import MIB, TINY, Option, load_apart
from benchmarks.shapes import make_checkpoint
from benchmarks.stored import write_stored
from helexa.quantising import quantise_to_file

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
UNNAMED_MIB = 8
"""What a process holds beside the weights once it has loaded a model: its layers, its heap."""


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 200 MiB in bfloat16, in two files."""
    folder = make_checkpoint("six-layers", tmp_path_factory.mktemp("plain"), files=2)
    shutil.copy(TINY / "tokenizer.json", folder)
    assert len(list(folder.glob("*.safetensors"))) == 2
    return folder


def check(path: Path, shard_mib: float, **options: Option) -> None:
    found = load_apart(path, **options)
    assert found.weights_mib > 60
    assert found.peak_mib <= 1.15 * found.weights_mib + shard_mib
    assert found.allocated_mib <= 1.15 * found.weights_mib + 2 * UNNAMED_MIB
    assert found.loaded_mib <= 1.05 * found.weights_mib + UNNAMED_MIB


def largest_mib(folder: Path) -> float:
    return max(file.stat().st_size for file in folder.glob("*.safetensors")) / MIB


def test_plain_weights(plain: Path) -> None:
    check(plain, largest_mib(plain))


def test_weights_that_are_quantised_as_they_are_loaded(plain: Path) -> None:
    check(plain, largest_mib(plain), quant="q4_k")


@pytest.mark.parametrize("format", ["q4_k", "q8_0"])
def test_gguf(format: str, plain: Path, tmp_path: Path) -> None:
    """One file, of which no more than half may be held beside the weights."""
    written = quantise_to_file(plain, tmp_path / "model.gguf", format)
    check(written.path, written.nbytes / 2 / MIB)
    written.path.unlink()


@pytest.mark.parametrize("format", ["awq", "compressed int4", "fp8"])
def test_quantised_safetensors(format: str, plain: Path, tmp_path: Path) -> None:
    folder = write_stored(plain, format, tmp_path, noise=True)
    assert len(list(folder.glob("*.safetensors"))) == 2
    check(folder, largest_mib(folder))
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def q4_k(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Q4_K of a model with the proportions of Qwen3 0.6B: a quarter of it are embeddings."""
    folder = make_checkpoint("0.6b-seventh", tmp_path_factory.mktemp("seventh"))
    shutil.copy(TINY / "tokenizer.json", folder)
    return quantise_to_file(folder, folder / "model.gguf", "q4_k").path


@pytest.mark.parametrize("dtype", ["auto", "float32"])
def test_q4_k_takes_little_more_than_its_file(q4_k: Path, dtype: str) -> None:
    file_mib = q4_k.stat().st_size / MIB
    assert file_mib > 60
    found = load_apart(q4_k, dtype=dtype, disabled=[])  # which needs its kernels
    assert found.weights_mib <= 1.1 * file_mib
    assert found.loaded_mib <= 1.1 * file_mib + UNNAMED_MIB
    assert found.resident_mib <= 1.1 * file_mib + UNNAMED_MIB
