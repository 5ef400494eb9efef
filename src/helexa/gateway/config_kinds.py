"""What single values of a gateway's configuration must be: addresses, URLs, names, secrets."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from helexa.daemon.schema import Kind, text
from helexa.protocol.ids import is_visible_ascii

LARGEST_PORT = 65535


def one_of(*words: str) -> Kind:
    """One of these words."""
    return text(" or ".join(f'"{word}"' for word in words), lambda value: value in words)


def listen_address(*, empty: bool = False) -> Kind:
    """`host:port`; an IPv6 address is in brackets."""
    wanted = "host:port, such as 127.0.0.1:31313 or [::1]:31313" + (', or ""' if empty else "")
    return text(wanted, lambda value: host_and_port(value) is not None, empty=empty)


def host_and_port(address: str) -> tuple[str, int] | None:
    """The host, without brackets, and the port of an address to listen on; None if it is none."""
    host, _, port = address.rpartition(":")
    if not (port.isascii() and port.isdecimal() and len(port) <= 5 and int(port) <= LARGEST_PORT):
        return None
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        return (host, int(port)) if _is_ipv6(host) else None
    if not is_visible_ascii(host, 253) or any(c in ":/[]@" for c in host):
        return None
    return host, int(port)


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True


def base_url(*, empty: bool = False) -> Kind:
    """An absolute http or https URL to which paths are appended; its trailing `/` is dropped.

    It is not shown: somebody may have put a password into it, which is refused.
    """
    return text(
        "an absolute http or https URL without user, query and fragment",
        is_base_url,
        empty=empty,
        convert=lambda url: url.rstrip("/"),
        secret=True,
    )


def is_base_url(url: str) -> bool:
    """Whether requests can be sent below this URL."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    return (
        all("!" <= c <= "~" for c in url)
        and parts.scheme in ("http", "https")
        and bool(parts.hostname)
        and port != 0
        and not any(c in url for c in "@?#\\")
    )


def ledger_place() -> Kind:
    """Where budgets are kept; a URL of a database may have a password in it and is not shown."""
    return text(
        "memory, sqlite, sqlite:///path or postgresql://…",
        is_ledger_place,
        empty=False,
        secret=True,
    )


def is_ledger_place(place: str) -> bool:
    """Whether it is one of the words, an absolute path of a file, or a URL of PostgreSQL."""
    if place.startswith("sqlite:///"):
        return not place.endswith("/")
    return place in ("memory", "sqlite") or place.startswith("postgresql://")


def visible_id() -> Kind:
    """A name that can be a header's value and a label."""
    return text(
        "1 to 128 visible ASCII characters", lambda value: is_visible_ascii(value, 128), empty=False
    )


def secret(*, empty: bool = False) -> Kind:
    """What a header can carry behind `Bearer`, as its reader will see it; never shown."""
    return text(
        "printable ASCII characters, no space at either end",
        lambda value: value.isascii() and value.isprintable() and value == value.strip(),
        empty=empty,
        secret=True,
    )
