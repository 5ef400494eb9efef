"""Memory on large pages: where it lies, and that nothing but speed depends on it."""

from __future__ import annotations

import mmap
import re
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from helexa.engine.kernels.compiled import Compiler
from helexa.engine.quant.blocks.rows import stored_rows
from helexa.engine.quant.blocks.types import BLOCK_TYPES
from helexa.engine.quant.blocks.weight import fast_weight
from helexa.engine.quant.dense import DenseFormat, StreamedWeight
from helexa.engine.quant.large_pages import LARGE_PAGE, large_pages
from tests.engine.quant.blocks.test_block_weight import made

SMAPS = Path("/proc/self/smaps")
KNOWN = hasattr(mmap, "MADV_HUGEPAGE") and SMAPS.exists() and "VmFlags" in SMAPS.read_text()
needs_large_pages = pytest.mark.skipif(
    not KNOWN, reason="this system has no large pages, or does not say what memory is on them"
)
ROWS, COLUMNS = 1536, 1024


def advised(tensor: Tensor) -> bool:
    """Whether the system was asked for large pages where a tensor lies: Linux's flag hg."""
    inside = False
    for line in SMAPS.read_text().splitlines():
        if head := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            start, stop = (int(part, 16) for part in head.groups())
            inside = start <= tensor.data_ptr() < stop
        elif inside and line.startswith("VmFlags:"):
            return "hg" in line.split()
    raise AssertionError("the tensor lies nowhere")


@needs_large_pages
def test_large_tensors_begin_a_page() -> None:
    tensor = large_pages((ROWS, COLUMNS), torch.bfloat16)
    assert (tensor.shape, tensor.dtype) == ((ROWS, COLUMNS), torch.bfloat16)
    assert tensor.is_contiguous()
    assert tensor.data_ptr() % LARGE_PAGE == 0
    assert advised(tensor)


@needs_large_pages
def test_no_page_is_taken_for_a_rest() -> None:
    """A little more than one page is that much, and not two."""
    nbytes, count = LARGE_PAGE + 2**16, 32
    before = resident()
    held = [large_pages((nbytes,), torch.uint8).fill_(1) for _ in range(count)]
    assert resident() - before < 1.1 * count * nbytes
    assert len(held) == count


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


def test_what_was_written_stays() -> None:
    tensors = [large_pages((3, 2**20 + 1), torch.int16) for _ in range(4)]
    for value, tensor in enumerate(tensors):
        tensor.fill_(value)
    part = tensors[2][1:, 5:]  # keeps the memory when nothing else does
    del tensors[2]
    tensors.append(large_pages((3, 2**20 + 1), torch.int16).fill_(9))
    assert (part == 2).all()
    assert [int(tensor.unique()) for tensor in tensors] == [0, 1, 3, 9]


@needs_large_pages
@pytest.mark.parametrize(("count", "wanted"), [(LARGE_PAGE - 1, True), (LARGE_PAGE, False)])
def test_small_or_unwanted_ones_are_any_memory(count: int, wanted: bool) -> None:
    assert not advised(large_pages((count,), torch.uint8, wanted=wanted).fill_(1))


def test_systems_without_them(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refused(mmap.mmap):
        def madvise(self, *_: int) -> None:
            raise OSError("not by this kernel")

    def limited(*_: object, **__: object) -> mmap.mmap:
        raise OSError("as much as a limit allows")

    for mapping in (Refused, limited) if sys.platform == "linux" else ():
        monkeypatch.setattr(mmap, "mmap", mapping)
        assert large_pages((LARGE_PAGE,), torch.uint8).shape == (LARGE_PAGE,)
    monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    assert large_pages((LARGE_PAGE,), torch.uint8).shape == (LARGE_PAGE,)


@needs_large_pages
@pytest.mark.parametrize("wanted", [True, False])
def test_matrices_for_compiled_kernels(wanted: bool) -> None:
    form = DenseFormat(torch.bfloat16, torch.device("cpu"), compiler=Compiler(), large_pages=wanted)
    matrix = torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(0)).bfloat16()
    weight = form.make([matrix[:500], matrix[500:]])
    assert isinstance(weight, StreamedWeight)
    assert torch.equal(weight.matrix(), matrix)
    assert advised(weight.tensor) == wanted

    type = BLOCK_TYPES["Q8_0"]
    blocks = made(type, ROWS * 2, COLUMNS)
    lanes = fast_weight(stored_rows(type, [blocks], COLUMNS), form)
    assert lanes is not None
    assert torch.equal(lanes.matrix(), type.matrix(blocks))
    assert advised(lanes.lanes.words) == wanted  # type: ignore[attr-defined]  # a LaneWeight's
