"""Errors that outlive what failed: they name the lines they came through, and hold no tensors."""

from __future__ import annotations

import traceback


def drop_locals(error: BaseException) -> None:
    """Forget the variables of the functions an error, and what caused it, came through.

    Among them are activations, a half-loaded model, or the cache. The lines stay. A function that
    still runs keeps its variables.
    """
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        traceback.clear_frames(found.__traceback__)
        found = found.__cause__ or found.__context__
