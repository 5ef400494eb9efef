"""Which way of keeping pages a model needs, and whether any of it is reused."""

from __future__ import annotations

from helexa.engine.cache.blocks import BlockPool
from helexa.engine.cache.pages import Pages
from helexa.engine.cache.snapshots import Snapshots
from helexa.engine.cache.state_pages import StatePages
from helexa.engine.config import EngineConfig
from helexa.engine.intake import CoreSpec
from helexa.engine.memory import MIB


def keeper(spec: CoreSpec, config: EngineConfig) -> Pages | StatePages:
    """Who gives sequences their pages, and their states where the model has some."""
    pool, reuse = BlockPool(spec.num_blocks, config.block_size), reuses(config)
    if not spec.state_bytes:
        return Pages(pool, spec.budget_blocks, reuse=reuse)
    running = config.max_batch
    behind = running + spec.snapshots
    snapshots = Snapshots(
        pool,
        range(running, behind),
        budget_bytes=config.prefix_cache_mb * MIB,
        block_bytes=spec.block_bytes,
        state_bytes=spec.state_bytes,
    )
    spares = range(behind, behind + config.spare_states)
    return StatePages(
        pool, spec.budget_blocks, snapshots, slots=running, spares=spares, reuse=reuse
    )


def reuses(config: EngineConfig) -> bool:
    """Whether the prefix cache is on: not turned off, and none of its limits is 0."""
    return bool(
        config.prefix_cache
        and config.prefix_cache_mb
        and config.max_entries
        and "prefix_cache" not in config.disabled
    )
