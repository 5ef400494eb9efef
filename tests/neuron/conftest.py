"""Both event loops on a clock that jumps: a wait of 300 seconds takes no time."""

from __future__ import annotations

from typing import Any

import pytest
import trio.testing

from tests.neuron.virtual_time import JumpingLoop


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    if request.param == "trio":
        return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}
    return "asyncio", {"loop_factory": JumpingLoop}
