"""Where models answer: asked of their node, believed for a minute, and no further than allowed."""

from __future__ import annotations

import logging
from urllib.parse import SplitResult, urlsplit

from helexa.gateway.fleet import Node
from helexa.gateway.neuron_client import NeuronClient, warn_once
from helexa.gateway.refusals import EndpointResolveFailed, NeuronCallFailed
from helexa.gateway.state import State
from helexa.http.faults import UpstreamUnreachable

BELIEVED_S = 60.0
LOOPBACK = frozenset({"localhost", "127.0.0.1", "0.0.0.0", "::1"})
ANY_HOST = "*"
MOST_CHARACTERS = 2048

log = logging.getLogger(__name__)


async def endpoint_url(state: State, node: Node, model: str) -> str:
    """The base URL where a node's model answers.

    Raises EndpointResolveFailed, and UpstreamUnreachable where there is nobody to be asked.
    """
    known = node.endpoints.get(model)
    if known is not None and state.clock() < known[1]:
        return known[0]
    entry = node.entries.get(model)
    try:
        named = await NeuronClient(state.client, node).endpoint(
            entry.listed_id if entry is not None else model
        )
    except NeuronCallFailed as failed:
        log.warning("node %s: no endpoint of %s: %s", node.name, model, failed)
        if isinstance(failed.__cause__, UpstreamUnreachable):
            raise UpstreamUnreachable(failed.__cause__.detail) from failed
        raise EndpointResolveFailed(model, node.name, missing=failed.answered == 404) from failed
    url = accepted(named, node)
    if url is None:
        warn_once(node, f"refused {named[:200]!r} as the endpoint of {model}: see `allow_hosts`")
        raise EndpointResolveFailed(model, node.name)
    if node.healthy and entry is not None and node.entries.get(model) is entry:
        node.endpoints[model] = (url, state.clock() + BELIEVED_S)
    return url


def forget_endpoint(node: Node, model: str) -> None:
    """Ask again where a model answers: a dispatch there found nobody, or no such model."""
    node.endpoints.pop(model, None)


def accepted(named: str, node: Node) -> str | None:
    """The URL to use for one that a node named; None if it must not be used.

    Its own host is fine, others only if they are allowed.
    """
    rewritten = rewrite_loopback_host(named, node.endpoint)
    if rewritten is not None:
        return rewritten
    parts = _base_url(named)
    if parts is None:
        return None
    own = urlsplit(node.endpoint).hostname
    allowed = {host.lower() for host in node.allow_hosts}
    if parts.hostname == own or parts.hostname in allowed or ANY_HOST in allowed:
        return named.rstrip("/")
    return None


def rewrite_loopback_host(url: str, node_endpoint: str) -> str | None:
    """The URL with its node's host, if its own means "this machine"; None for any other URL."""
    parts = _base_url(url)
    if parts is None or parts.hostname not in LOOPBACK:
        return None
    host = urlsplit(node_endpoint).hostname or ""
    host = f"[{host}]" if ":" in host else host
    netloc = host if parts.port is None else f"{host}:{parts.port}"
    return f"{parts.scheme}://{netloc}{parts.path}".rstrip("/")


def _base_url(url: str) -> SplitResult | None:
    """The parts of an absolute http or https URL to which a path can be added, and nothing else."""
    if len(url) > MOST_CHARACTERS or not url.isprintable() or not url.isascii():
        return None
    if any(character in url for character in " ?#@\\"):
        return None
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
        return parts if usable and parts.port != 0 else None
    except ValueError:
        return None
