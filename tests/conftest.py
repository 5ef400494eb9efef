"""What holds for every test: one thread per worker, no telemetry, GPU tests only on a GPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from helexa.engine.process.children import Nursery
    from tests.cores import Controls

# Before torch is imported: the workers share the cores, and one thread makes sums repeatable.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked ``gpu`` on a machine without one, and say so."""
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
