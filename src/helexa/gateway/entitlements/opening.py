"""Whether a gateway keeps keys and budgets, and for how long."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from helexa.gateway.config import EntitlementsConfig, UpstreamConfig
from helexa.http import Client

if TYPE_CHECKING:
    from helexa.gateway.entitlements.chain import Chain

SYSTEM_FOLDER = Path("/var/lib/helexa-gateway")


@asynccontextmanager
async def open_provider(
    entitlements: EntitlementsConfig,
    upstream: UpstreamConfig,
    environ: Mapping[str, str],
    client: Client,
    *,
    clock: Callable[[], float] = time.time,
    system_folder: Path = SYSTEM_FOLDER,
) -> AsyncIterator[Chain | None]:
    """Keys and budgets, as long as the block lasts; None if there are none to be kept.

    The block runs `Chain.keep` in a task; without it nothing expires and nothing is reported.
    Raises LedgerUnusable.
    """
    if not entitlements.keys and not upstream.enabled:
        yield None
        return
    # Not above: who keeps no budgets need not wait for databases, a tenth of the time of a start.
    from helexa.gateway.entitlements.places import open_chain

    folders = _folders(environ, system_folder)
    async with open_chain(entitlements, upstream, client, folders, clock) as chain:
        yield chain


def _folders(environ: Mapping[str, str], system_folder: Path) -> list[Path]:
    folders = []
    if state := environ.get("STATE_DIRECTORY"):
        folders.append(Path(state.split(":")[0]))  # systemd may give several
    folders.append(system_folder)
    if home := environ.get("HOME"):
        folders.append(Path(home, ".local/state/helexa"))
    return folders
