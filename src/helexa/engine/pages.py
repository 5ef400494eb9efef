"""The pages that torch's memory lies on.

What asks for large pages by itself, also where torch has been used before: `quant.large_pages`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import MutableMapping

VARIABLE = "THP_MEM_ALLOC_ENABLE"
"""Torch reads it when it first gives out memory: 1 asks the system for large pages."""


def prefer_large_pages(environ: MutableMapping[str, str]) -> None:
    """Have torch put what takes 2 MiB or more on pages of that size, where the system has them.

    A CPU then looks up 512 times fewer addresses, and a step of one token reads weights in
    oneDNN's order faster (benchmarks/README.md, "Compiled kernels"). That holds for all of torch's
    memory in this process from now on. Nothing changes where torch has given out memory before, or
    somebody has set the variable. ``environ`` is as before in the end: what is started later
    decides for itself.
    """
    if VARIABLE in environ:
        return
    environ[VARIABLE] = "1"
    try:
        torch.empty(1, device="cpu")
    finally:
        environ.pop(VARIABLE, None)
