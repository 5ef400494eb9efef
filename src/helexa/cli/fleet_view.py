"""What a gateway says of its fleet: health and models, and at its metrics port hosts and loads."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from helexa.cli.terminal import printable
from helexa.errors import HelexaError
from helexa.protocol.envelope import read_error

if TYPE_CHECKING:
    import httpx

TIMEOUT_S = 10.0
GUESS_TIMEOUT_S = 1.0
METRICS_PORT = 31314
DEVICE, MODEL = "cortex_device_", "cortex_model_"


@dataclass(frozen=True, slots=True)
class Gateway:
    """Where to ask. ``metrics_url`` None: where metrics usually are, if they are there at all."""

    endpoint: str
    key: str | None = field(default=None, repr=False)
    metrics_url: str | None = None


@dataclass(frozen=True, slots=True)
class Host:
    """One node by the metrics: values by device and by model, under the ends of their names."""

    up: bool = False
    devices: dict[str, dict[str, float]] = field(default_factory=dict)
    loads: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FleetView:
    """A fleet at one moment: two answers as they came, and the hosts by name.

    ``hosts`` is None if the metrics could not be read; ``why_no_hosts`` tells why.
    """

    health: dict[str, Any]
    models: dict[str, Any]
    hosts: Mapping[str, Host] | None = None
    why_no_hosts: str = ""


@dataclass(frozen=True, slots=True)
class Location:
    """Where a model is."""

    node: str
    status: str

    def __str__(self) -> str:
        return f"{self.node}({self.status})"


def entries(view: FleetView) -> Iterator[tuple[dict[str, Any], list[Location]]]:
    """The models of the list with where they are; what is not understood is left out."""
    for entry in _dicts(view.models.get("data")):
        where = _dicts(entry.get("locations"))
        yield entry, [Location(_name(one.get("node")), _name(one.get("status"))) for one in where]


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _name(value: Any) -> str:
    return printable(str(value))


def plain_text(view: FleetView) -> str:
    """The report for pipes and scripts."""
    health = printable(json.dumps(view.health, indent=2, ensure_ascii=False))
    lines = [f"Fleet health: {health}", "", "Models:"]
    for entry, where in entries(view):
        lines.append(f"  {_name(entry.get('id')):<40} {', '.join(map(str, where)) or '-'}")
    return "\n".join(lines)


def read_fleet(client: httpx.Client, gateway: Gateway, *, hosts: bool) -> FleetView:
    """Ask a gateway how its fleet is, and for the hosts if they are wanted.

    Raises HelexaError if it does not answer both questions.
    """
    base = gateway.endpoint.rstrip("/")
    bearer = {b"authorization": b"Bearer " + gateway.key.encode()} if gateway.key else {}
    found = [_json(_get(client, base + path, bearer)) for path in ("/health", "/v1/models")]
    health, models = found
    if not hosts:
        return FleetView(health, models)
    given = gateway.metrics_url
    try:
        text = _get(
            client, given or metrics_guess(base), timeout_s=None if given else GUESS_TIMEOUT_S
        )
        return FleetView(health, models, read_hosts(text.text))
    except HelexaError as error:
        return FleetView(health, models, None, error.message)


def metrics_guess(base: str) -> str:
    """Where the metrics of a gateway are, unless somebody has moved them."""
    parts = urlsplit(base)
    host = parts.hostname or "localhost"
    return f"http://{f'[{host}]' if ':' in host else host}:{METRICS_PORT}/metrics"


def _get(
    client: httpx.Client,
    url: str,
    headers: Mapping[bytes, bytes] | None = None,
    timeout_s: float | None = None,
) -> httpx.Response:
    import httpx

    try:
        answer = client.get(url, headers=headers, timeout=timeout_s or TIMEOUT_S)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        reason = printable(str(error)) or type(error).__name__
        raise HelexaError(f"cannot reach {_shown(url)}: {reason}") from error
    if answer.status_code != 200:
        told = read_error(answer.status_code, answer.content).message
        text = printable(told).replace("\n", " ")
        raise HelexaError(f"{_shown(url)} answered {answer.status_code}: {text}")
    return answer


def _json(answer: httpx.Response) -> dict[str, Any]:
    try:
        value = answer.json()
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise HelexaError(f"{_shown(str(answer.url))} did not answer as a gateway does")
    return value


def _shown(url: str) -> str:
    """An address without the name and password that may be in it."""
    return re.sub(r"//[^/]*@", "//", printable(url))


def read_hosts(text: str) -> dict[str, Host]:
    """The hosts by name, from a gateway's text for Prometheus. Raises HelexaError."""
    from prometheus_client.parser import text_string_to_metric_families

    hosts: dict[str, Host] = {}
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                _add(hosts, sample.name, sample.labels, sample.value)
    except (ValueError, KeyError, IndexError) as error:
        raise HelexaError("what the metrics port says is no text for Prometheus") from error
    return dict(sorted(hosts.items()))


def _add(hosts: dict[str, Host], name: str, labels: Mapping[str, str], value: float) -> None:
    node = labels.get("node")
    if node is None:
        return
    if name == "cortex_node_up":
        known = hosts.get(node, Host())
        hosts[node] = Host(value == 1, known.devices, known.loads)
    elif name.startswith(DEVICE) and "device" in labels:
        devices = hosts.setdefault(node, Host()).devices
        devices.setdefault(labels["device"], {})[name.removeprefix(DEVICE)] = value
    elif name.startswith(MODEL) and "model" in labels:
        load = hosts.setdefault(node, Host()).loads.setdefault(labels["model"], {})
        what = name.removeprefix(MODEL)
        load[what] = load.get(what, 0) + value  # the reasons of rejections, together
