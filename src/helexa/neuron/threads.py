"""Threads for what would hold up the event loop; each kind of work waits only for its own."""

from __future__ import annotations

import os

from anyio import CapacityLimiter

CORES = os.cpu_count() or 1
MANY = 1024
"""More than there are models: what waits for a disk, a network or a process takes no core."""


class Threads:
    """How many threads there may be for each kind of work.

    ``preparing`` turns requests into prompts; ``counting`` serves `/tokenize` and `/detokenize`,
    to which nobody is admitted; ``reading`` parses large bodies; ``looking`` reads the disk for
    control routes; ``loading`` and ``ending`` wait for models and their processes.
    """

    def __init__(self) -> None:
        self.preparing = CapacityLimiter(max(2, CORES))
        self.counting = CapacityLimiter(2)
        self.reading = CapacityLimiter(2)
        self.looking = CapacityLimiter(4)
        self.loading = CapacityLimiter(MANY)
        self.ending = CapacityLimiter(MANY)
