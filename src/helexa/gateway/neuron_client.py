"""Calls to a neuron's control plane, each limited in time and size.

A neuron may be of another age than this gateway, or out of its mind: whatever it answers, one call
fails with NeuronCallFailed and nothing else happens.
"""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import quote

import anyio

from helexa.gateway.fleet import Node
from helexa.gateway.placement import LoadBody
from helexa.gateway.refusals import NeuronCallFailed
from helexa.http import Client, UpstreamResponse, parse_json
from helexa.http.faults import UpstreamError
from helexa.protocol.control import (
    ActivationStatus,
    DeviceHealth,
    DiscoveryResponse,
    ModelInfo,
    ModelLoad,
)
from helexa.protocol.wire import AnyWire, Unreadable, Wire
from helexa.refusals import MalformedJson

MAX_BODY_BYTES = 1024 * 1024
MAX_ERROR_BYTES = 16 * 1024
MAX_ID_LENGTH = 512
MAX_NUMBER = 2**53
MAX_WARNINGS = 100
ENDPOINT_TIMEOUT_S = 5.0
UNLOAD_TIMEOUT_S = 60.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Health:
    """What of a neuron's `/health` a gateway needs; None where it was not to be understood."""

    devices: tuple[DeviceHealth, ...]
    models: tuple[ModelLoad, ...]
    activation: ActivationStatus | None


@dataclass(frozen=True, slots=True)
class NeuronClient:
    """One neuron's control plane. Every call raises NeuronCallFailed."""

    client: Client
    node: Node

    async def discovery(self, timeout_s: float) -> DiscoveryResponse:
        """The host and its devices."""
        return _read(DiscoveryResponse, await self._get("/discovery", timeout_s))

    async def models(self, timeout_s: float) -> list[ModelInfo]:
        """The models it has; an element that is not to be understood is left out, and told of."""
        found = await self._get("/models", timeout_s)
        if not isinstance(found, list):
            raise NeuronCallFailed("the answer is not a list of models")
        infos, bad = read_each(ModelInfo, found)
        for problem in bad:
            warn_once(self.node, "skipped an element of its models: " + problem)
        return infos

    async def capabilities(self, model: str, timeout_s: float) -> tuple[str, ...]:
        """What a model can do that is not loaded; empty where the neuron cannot say."""
        try:
            found = await self._get(f"/models/{_segment(model)}/capabilities", timeout_s)
        except NeuronCallFailed as failed:
            if failed.answered == 404:
                return ()
            raise
        words = found.get("capabilities") if isinstance(found, dict) else None
        if isinstance(words, list) and all(isinstance(word, str) for word in words):
            return tuple(words)
        return ()

    async def health(self, timeout_s: float) -> Health:
        """Its devices, how busy its models are, and how far it is with its start."""
        found = await self._get("/health", timeout_s)
        if not isinstance(found, dict):
            raise NeuronCallFailed("the answer is not an object")
        devices, bad = read_each(DeviceHealth, found.get("devices"))
        models, more = read_each(ModelLoad, found.get("models"))
        for problem in bad + more:
            warn_once(self.node, "skipped an element of its health: " + problem)
        started, _ = read_each(ActivationStatus, [found.get("activation") or {}])
        return Health(tuple(devices), tuple(models), started[0] if started else None)

    async def endpoint(self, listed_id: str) -> str:
        """The base URL where a model answers, as the neuron says it."""
        found = await self._get(f"/models/{_segment(listed_id)}/endpoint", ENDPOINT_TIMEOUT_S)
        url = found.get("url") if isinstance(found, dict) else None
        if not isinstance(url, str):
            raise NeuronCallFailed("the answer has no url")
        return url

    async def load(self, body: LoadBody, timeout_s: float) -> None:
        """Have a model loaded, and wait for it."""
        await self._ask("POST", "/models/load", timeout_s, json.dumps(body.to_wire()).encode())

    async def unload(self, listed_id: str) -> None:
        """Have a model unloaded, and wait for it."""
        body = json.dumps({"model_id": listed_id}).encode()
        await self._ask("POST", "/models/unload", UNLOAD_TIMEOUT_S, body)

    async def _get(self, path: str, timeout_s: float) -> Any:
        body = await self._ask("GET", path, timeout_s)
        try:
            return parse_json(body)
        except MalformedJson as error:
            raise NeuronCallFailed(str(error)) from error

    async def _ask(self, method: str, path: str, timeout_s: float, body: bytes = b"") -> bytes:
        url = self.node.endpoint.rstrip("/") + path
        fields = [("accept", "application/json")]
        if body:
            fields.append(("content-type", "application/json"))
        if self.node.bearer is not None:
            fields.append(("authorization", f"Bearer {self.node.bearer}"))
        try:
            asking = self.client.request(method, url, fields, body, first_byte_timeout_s=timeout_s)
            with anyio.fail_after(timeout_s):
                async with asking as response:
                    if 200 <= response.status < 300:
                        return await response.read(MAX_BODY_BYTES)
                    text = self.node.told(await _beginning(response))
        except TimeoutError as error:
            raise NeuronCallFailed(f"no answer within {timeout_s:g} s") from error
        except UpstreamError as error:
            raise NeuronCallFailed(error.detail) from error
        except ValueError as error:
            raise NeuronCallFailed(f"this cannot be asked: {error}") from error
        raise NeuronCallFailed(f"HTTP {response.status}", answered=response.status, body=text)


def warn_once(node: Node, problem: str) -> None:
    """Tell the log of what a neuron does, unless it has been told already."""
    if problem not in node.warned and len(node.warned) < MAX_WARNINGS:
        node.warned.add(problem)
        log.warning("node %s: %s", node.name, problem)


async def _beginning(response: UpstreamResponse) -> bytes:
    """As much of an error's body as anybody will read."""
    body = b""
    async for part in response:
        body += part
        if len(body) >= MAX_ERROR_BYTES:
            break
    return body[:MAX_ERROR_BYTES]


def _segment(id: str) -> str:
    return quote(id, safe="")


def _read(kind: type[AnyWire], value: Any) -> AnyWire:
    """Read one object. Raises NeuronCallFailed."""
    found, bad = read_each(kind, [value])
    if bad:
        raise NeuronCallFailed(bad[0])
    return found[0]


def read_each(kind: type[AnyWire], values: object) -> tuple[list[AnyWire], list[str]]:
    """What can be read of a list, and what is wrong with the rest, without what was sent."""
    found: list[AnyWire] = []
    bad: list[str] = []
    for value in values if isinstance(values, list) else ():
        try:
            one = kind.read(value)
            _check_plausible(one)
            found.append(one)
        except (Unreadable, _Implausible) as error:
            bad.append(str(error))
    return found, bad


class _Implausible(Exception):
    """A value that no neuron would send."""


def _check_plausible(value: object) -> None:
    """Refuse numbers that no metric could show, and ids that no path could hold.

    Only of what is read: what a gateway has no use for may be anything.
    """
    if isinstance(value, Wire):
        id = getattr(value, "id", "-")
        if not (1 <= len(id) <= MAX_ID_LENGTH and id.isprintable()):
            raise _Implausible("an id that is empty, too long or not printable")
        _check_plausible(tuple(getattr(value, field.name) for field in fields(value)))
    elif isinstance(value, tuple):
        for item in value:
            _check_plausible(item)
    elif isinstance(value, float) and not math.isfinite(value):
        raise _Implausible("a number that is not finite")
    elif isinstance(value, int | float) and abs(value) > MAX_NUMBER:
        raise _Implausible("a number that is too large")
