"""The pages that torch's memory lies on.

What asks for large pages by itself, also where torch has been used before: `quant.large_pages`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import MutableMapping

VARIABLE = "THP_MEM_ALLOC_ENABLE"
"""Torch reads it when it first gives out memory: 1 asks the system for large pages."""


def prefer_large_pages(environ: MutableMapping[str, str]) -> None:
    """Have torch put what takes 2 MiB or more on pages of that size, where the system has them.

    A CPU then looks up 512 times fewer addresses, and a step of one token reads weights in
    oneDNN's order faster (benchmarks/README.md, "Compiled kernels"). Nothing changes where torch
    has been used before in this process, somebody has set the variable, or `HELEXA_DISABLE` names
    large_pages.
    """
    disabled = environ.get("HELEXA_DISABLE", "").split(",")
    if "large_pages" not in map(str.strip, disabled):
        environ.setdefault(VARIABLE, "1")
