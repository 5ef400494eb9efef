"""Whether this machine can compile kernels."""

from __future__ import annotations

import pytest

from helexa.engine.kernels.compiled import require_compiler
from helexa.errors import InvalidRequest


def can_compile() -> bool:
    try:
        require_compiler()
    except InvalidRequest:
        return False
    return True


needs_compiler = pytest.mark.skipif(not can_compile(), reason="there is no C++ compiler here")
