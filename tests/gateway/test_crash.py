"""Gateways that are killed under load: their ledger says what their neuron says."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.gateway_crash import crash

KILLS = 5


@pytest.fixture
def anyio_backend() -> str:
    """Gateways and neuron are on asyncio; what they are tested by has no other."""
    return "asyncio"


@pytest.mark.anyio
async def test_budgets_survive_any_moment(tmp_path: Path) -> None:
    """Every request is compared after every kill: see what the benchmark requires."""
    run = await crash(KILLS, 11, tmp_path)
    sums = run.summary()
    assert (sums["kills"], run.swept["left"], run.swept["reserved"]) == (KILLS, 0, 0)
    assert 0 < sums["spent"] <= sums["served"] <= sums["spent"] + sums["reserved"]
    assert sums["lost"] + sums["spent"] == sums["served"]
    assert sums["held"] > 0
