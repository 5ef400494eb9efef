"""How many connections the process may have open, beside what its models need."""

from __future__ import annotations

import logging
import resource
from dataclasses import replace

from helexa.http import ServerConfig

RESERVE = 64
"""Descriptors for the children, the log, and what a load opens."""
MOST = 2**20

log = logging.getLogger(__name__)


def raise_limit() -> int:
    """Raise the soft limit of open files to the hard one; how many may be open now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError) as error:  # some systems allow less than they say
            log.debug("cannot raise the limit of open files: %s", error)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST if soft == resource.RLIM_INFINITY else soft


def affordable(connections: int, limit: int) -> int:
    """How many of so many connections may be open; those that are refused take some more."""
    return max(1, min(connections, (limit - RESERVE) * 4 // 5))


def fitted(
    config: ServerConfig, limit: int, *, key: str = "http.max_connections", each: int = 1
) -> ServerConfig:
    """The limits of a server in a process that may have ``limit`` files open.

    ``key`` is the setting's name, ``each`` how many files a connection may need: two of a relay.
    """
    most = affordable(config.max_connections, limit // each)
    if most < config.max_connections:
        log.warning(
            "%s is lowered from %d to %d: this process may have %d files open; "
            "raise its limit (ulimit -n, LimitNOFILE)",
            *(key, config.max_connections, most, limit),
        )
    return replace(config, max_connections=most)
