"""What must hold between the values of a gateway's configuration, and what is hardly meant."""

from __future__ import annotations

import importlib.util
from typing import Any

from helexa.daemon.schema import Findings, Node
from helexa.gateway.config import GatewayConfig, KeyConfig

KEYS = ("entitlements", "keys")


def check(config: GatewayConfig, node: Node, found: Findings) -> None:
    """Note every contradiction; ``node`` is what ``config`` was read from."""
    check_neurons(config, node, found)
    check_windows(config, node, found)
    check_principals(config, node, found)
    if config.upstream.enabled and not given(node, "upstream", "url"):
        found.problems.append("upstream.url: is missing, but upstream.enabled is true")
    place = config.entitlements.ledger
    if place is not None and place.startswith("postgresql:") and not driver_is_there():
        label = label_at(node, "entitlements", "ledger")
        found.problems.append(
            f"{label}: its driver, psycopg, is not installed: pip install 'helexa[postgres]'"
        )


def driver_is_there() -> bool:
    """Whether the driver of PostgreSQL can be imported, without importing it."""
    return importlib.util.find_spec("psycopg") is not None


def check_neurons(config: GatewayConfig, node: Node, found: Findings) -> None:
    """Neurons must be given, each under a name of its own."""
    if given(node, "neurons") is None:
        if given(node, "nodes") is None:
            way_out = "name them with [[neurons]] or --neuron, or write `neurons = []`"
            found.problems.append(f"neurons: is missing; {way_out}")
        else:
            found.problems.append("neurons: is missing, and nodes is not read: use [[neurons]]")
    label = label_at(node, "neurons")
    first: dict[str, int] = {}
    for i, neuron in enumerate(config.neurons):
        before = first.setdefault(neuron.name, i)
        if neuron.name and before != i:
            found.problems.append(
                f"{label}[{i}].name: {neuron.name!r} is also the name of {label}[{before}]"
            )


def check_windows(config: GatewayConfig, node: Node, found: Findings) -> None:
    """A length belongs to a rolling window, and a rolling window has one."""
    for i, key in enumerate(config.entitlements.keys):
        row = given(node, *KEYS)[i]
        window = row.get("window") if isinstance(row, dict) else None
        if not isinstance(window, dict):
            continue
        label = f"{label_at(node, *KEYS)}[{i}].window"
        if key.window.kind == "rolling" and "seconds" not in window:
            found.problems.append(f"{label}.seconds: is missing, but the window is rolling")
        if "seconds" in window and "kind" not in window:
            found.problems.append(f'{label}.kind: is missing; with seconds it is "rolling"')


def check_principals(config: GatewayConfig, node: Node, found: Findings) -> None:
    """A secret is known as one principal's."""
    label = label_at(node, *KEYS)
    owners: dict[str, tuple[int, str, str]] = {}
    for i, key in enumerate(config.entitlements.keys):
        before, *owner = owners.setdefault(key.key, (i, key.account_id, key.ledger_id))
        if key.key and owner != [key.account_id, key.ledger_id]:
            found.problems.append(
                f"{label}[{i}].key: is also the key of {label}[{before}], "
                "which has another account_id or key_id"
            )


def advice(config: GatewayConfig, node: Node) -> list[str]:
    """What is allowed, but hardly meant."""
    said: dict[str, str] = {}
    last: dict[str, KeyConfig] = {}
    for i, key in enumerate(config.entitlements.keys):
        before = last.setdefault(key.ledger_id, key)
        if (before.hard_cap, before.window) != (key.hard_cap, key.window):
            said[key.ledger_id] = (
                f"keys of the key_id {key.ledger_id!r} differ in hard_cap or window: those of "
                f"{label_at(node, *KEYS)}[{i}] hold"
            )
        last[key.ledger_id] = key
    return list(said.values())


def given(node: Node, *path: str) -> Any:
    """The plain value at a path of keys, None if nothing is given there."""
    for key in path:
        if not node.is_table or key not in node.value:
            return None
        node = node.value[key]
    return node.raw


def label_at(node: Node, *path: str) -> str:
    """What a person wrote to give what is at a path; the path itself if nobody has."""
    for key in path:
        if not node.is_table or key not in node.value:
            return ".".join(path)
        node = node.value[key]
    return node.label
