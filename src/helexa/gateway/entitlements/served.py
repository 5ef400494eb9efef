"""Telling an authority what was served to its accounts."""

from __future__ import annotations

import logging

import anyio

from helexa.gateway.entitlements.authority import Authority, NoAnswer
from helexa.gateway.entitlements.book import StoreFailed, Usage
from helexa.gateway.entitlements.ledger import Ledger

MOST_ROWS = 5000

log = logging.getLogger(__name__)


class Reporter:
    """Reports, per account, key and day, all tokens that were served; each change once.

    The authority keeps the greatest number that it was ever told, so telling one again does no
    harm: after a start everything is told that the ledger still knows.
    """

    def __init__(self, ledger: Ledger, authority: Authority, interval_s: float) -> None:
        self._ledger = ledger
        self._authority = authority
        self._interval_s = interval_s
        self._accepted: dict[Usage, int] = {}

    async def keep(self) -> None:
        """Report again and again, until cancelled."""
        while True:
            await anyio.sleep(self._interval_s)
            await self.flush()

    async def flush(self) -> None:
        """Report what has changed since it was last accepted; a failure is for the next time."""
        try:
            served = await self._ledger.served()
            accepted = self._accepted
            rows = [row for row in served.items() if accepted.get(row[0]) != row[1]]
            self._accepted = {usage: accepted[usage] for usage in served if usage in accepted}
            for start in range(0, len(rows), MOST_ROWS):
                some = rows[start : start + MOST_ROWS]
                await self._authority.report(some)
                self._accepted.update(some)
        except (StoreFailed, NoAnswer) as error:
            log.warning("served tokens could not be reported, which is tried again: %s", error)
