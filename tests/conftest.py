"""What holds for every test: one thread per worker, no telemetry, GPU tests only on a GPU."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from helexa.engine.process.children import Nursery
    from tests.cores import Controls

# How long one example takes tells of the machine, not of the code.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")

# Before torch is imported: the workers share the cores, and one thread makes sums repeatable.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "0")  # what asks for large pages itself is tested
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# Before triton is imported, which is when it looks: kernels run interpreted where there is no GPU.
if not any(map(os.path.exists, ("/dev/nvidiactl", "/dev/dxg"))):
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Hundreds of processes are started: each would compile the package again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked ``gpu`` on a machine without one, and say so; begin with what waits.

    Files of few tests start processes and take longest. The many short ones come last, so that no
    worker is left alone with a long file at the end.
    """
    tests = Counter(item.path for item in items)
    items.sort(key=lambda item: tests[item.path])
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device, none found"))


@pytest.fixture
def controls(tmp_path: Path) -> Controls:
    """Steer a core of `tests.cores`."""
    from tests.cores import Controls

    return Controls(tmp_path)


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    """Child processes with cores of `tests.cores`."""
    from helexa.engine.process.children import Nursery
    from tests.cores import BUILDER

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
        made = Nursery(builder=BUILDER)
        yield made
        made.close()
