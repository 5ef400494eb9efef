"""The limits and timeouts of a server and of a client: one frozen value each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from helexa.errors import InvalidRequest
from helexa.http.budget import BodyBudget

KIB = 1024
MIB = 1024 * KIB


def _require_positive(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not value > 0:
            raise InvalidRequest(f"{name} is {value}; it must be above 0", param=name)


@dataclass(frozen=True, slots=True)
class Tls:
    """The files of a server's certificate (chain) and of its private key, both PEM."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Where a server listens, and what it puts up with.

    ``header_timeout_s`` runs from the first byte of a head to its last, ``body_timeout_s`` between
    two reads of a body, ``write_stall_s`` while a client accepts nothing of a piece of at most
    64 KiB. At ``max_connections`` one more is answered 503 (``refuse``) or left in the listen
    queue (``wait``). ``close_idle_on_drain = False`` lets idle connections ask once more while the
    running requests finish. ``body_budget`` bounds what the bodies of all requests hold together.
    """

    host: str = "127.0.0.1"
    port: int = 0
    tls: Tls | None = None
    max_connections: int = 1024
    when_full: Literal["refuse", "wait"] = "refuse"
    max_body_bytes: int = 64 * MIB
    max_head_bytes: int = 64 * KIB
    max_target_bytes: int = 16 * KIB
    max_fields: int = 128
    header_timeout_s: float = 30.0
    body_timeout_s: float = 60.0
    idle_timeout_s: float = 120.0
    write_stall_s: float = 120.0
    linger_s: float = 2.0
    close_idle_on_drain: bool = True
    body_budget: BodyBudget | None = None

    def __post_init__(self) -> None:
        _require_positive(
            self,
            *("max_connections", "max_body_bytes", "max_head_bytes", "max_target_bytes"),
            *("max_fields", "header_timeout_s", "body_timeout_s", "idle_timeout_s"),
            *("write_stall_s", "linger_s"),
        )

    @property
    def tick_s(self) -> float:
        """How often deadlines are looked at: an eighth of the shortest, at most four times a s."""
        shortest = min(
            *(self.header_timeout_s, self.body_timeout_s, self.idle_timeout_s),
            *(self.write_stall_s, self.linger_s),
        )
        return min(0.25, shortest / 8)


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """How long a relay waits for a server behind it, and how many idle connections it keeps.

    ``first_byte_timeout_s`` runs until the whole head of the answer is there, ``idle_timeout_s``
    between two reads of its body, ``write_timeout_s`` while the server accepts nothing.
    """

    connect_timeout_s: float = 5.0
    first_byte_timeout_s: float = 300.0
    idle_timeout_s: float = 300.0
    write_timeout_s: float = 60.0
    max_head_bytes: int = 64 * KIB
    max_fields: int = 128
    keep_idle_s: float = 30.0
    max_idle_per_origin: int = 64

    def __post_init__(self) -> None:
        _require_positive(
            self,
            *("connect_timeout_s", "first_byte_timeout_s", "idle_timeout_s", "write_timeout_s"),
            *("max_head_bytes", "max_fields", "keep_idle_s"),
        )
