"""A fleet as tables for a terminal: hosts, devices, models with their limits, loads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from helexa.cli.fleet_view import FleetView, Host, entries
from helexa.cli.terminal import Column, count, printable, size, table

if TYPE_CHECKING:
    from rich.console import RenderableType

MIB = 1 << 20
STYLES = {"ok": "green", "impaired": "yellow", "degraded": "red"}
HOSTS = (
    Column("HOST"),
    Column("STATE"),
    *(Column(name, number=True) for name in ("DEVICES", "USED", "FREE")),
    *(Column(name, number=True) for name in ("MODELS", "RUNNING", "WAITING")),
)
DEVICES = (
    Column("HOST"),
    *(Column(name, number=True) for name in ("DEVICE", "USED", "FREE", "BUSY", "TEMP")),
)
MODELS = (
    Column("MODEL"),
    Column("WHERE"),
    *(Column(name, number=True) for name in ("CONTEXT", "OUTPUT")),
    Column("CAN"),
    Column("USD/M IN, OUT"),
)
LOADS = (
    Column("MODEL"),
    Column("HOST"),
    *(Column(name, number=True) for name in ("RUNNING", "WAITING", "PREFILL", "DECODE", "REFUSED")),
)


def fleet_tables(view: FleetView) -> RenderableType:
    """Everything there is to show, one part below the other."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [_summary(view)]
    parts += (Text(unservable, style="yellow") for unservable in _unservable(view))
    if view.hosts is None:
        parts.append(Text(f"no hosts, devices and loads: {view.why_no_hosts}", style="dim"))
    else:
        parts += _titled("Hosts", HOSTS, [_host(*each) for each in view.hosts.items()])
        parts += _titled("Devices", DEVICES, list(_devices(view.hosts)))
    parts += _titled("Models", MODELS, list(_models(view)))
    if view.hosts is not None:
        parts += _titled("Loads (rates in tokens per second)", LOADS, list(_loads(view.hosts)))
    return Group(*parts)


def _titled(
    title: str, columns: Sequence[Column], rows: Sequence[Sequence[str]]
) -> list[RenderableType]:
    from rich.text import Text

    return [Text(), Text(title, style="bold cyan"), table(columns, rows)] if rows else []


def _summary(view: FleetView) -> RenderableType:
    from rich.text import Text

    status = printable(str(view.health.get("status")))
    nodes = view.health.get("nodes")
    counts = nodes if isinstance(nodes, dict) else {}
    told = f"{counts.get('healthy', '?')} of {counts.get('total', '?')} nodes answer"
    return Text.assemble("The fleet is ", (status, STYLES.get(status, "")), f": {told}.")


def _unservable(view: FleetView) -> Iterator[str]:
    found = view.health.get("unservable")
    for one in found if isinstance(found, list) else ():
        if isinstance(one, dict):
            why = one.get("detail") or one.get("reason") or "no reason given"
            yield printable(f"{one.get('model')} on {one.get('node')} takes no requests: {why}")


def _host(name: str, host: Host) -> Sequence[str]:
    devices, loads = host.devices.values(), host.loads.values()
    return (
        printable(name),
        "up" if host.up else "DOWN",
        str(len(devices)),
        _mib(sum(device.get("vram_used_mb", 0) for device in devices)) if devices else "",
        _mib(sum(device.get("vram_free_mb", 0) for device in devices)) if devices else "",
        str(len(loads)),
        f"{sum(load.get('in_flight', 0) for load in loads):.0f}",
        f"{sum(load.get('queue_depth', 0) for load in loads):.0f}",
    )


def _devices(hosts: Mapping[str, Host]) -> Iterator[Sequence[str]]:
    for name, host in hosts.items():
        for device, values in host.devices.items():
            yield (
                printable(name),
                printable(device),
                _mib(values.get("vram_used_mb", 0)),
                _mib(values.get("vram_free_mb", 0)),
                f"{values.get('utilization_pct', 0):.0f} %",
                f"{values.get('temp_c', 0):.0f} °C",
            )


def _models(view: FleetView) -> Iterator[Sequence[str]]:
    for entry, where in entries(view):
        can = entry.get("capabilities")
        words = [str(word) for word in can] if isinstance(can, list) else []
        words += [flag for flag in ("tool_call", "reasoning") if entry.get(flag) is True]
        yield (
            printable(str(entry.get("id"))),
            ", ".join(map(str, where)) or "-",
            _tokens(entry.get("max_model_len")),
            _tokens(entry.get("max_output_tokens")),
            printable(", ".join(words)),
            _price(entry.get("cost")),
        )


def _loads(hosts: Mapping[str, Host]) -> Iterator[Sequence[str]]:
    rows = [
        (model, name, load) for name, host in hosts.items() for model, load in host.loads.items()
    ]
    for model, name, load in sorted(rows, key=lambda row: row[:2]):
        yield (
            printable(model),
            printable(name),
            _of(load, "in_flight"),
            _of(load, "queue_depth"),
            f"{load.get('tok_s_prefill', 0):.0f}",
            f"{load.get('tok_s_decode', 0):.1f}",
            f"{load.get('rejections_total', 0):.0f}",
        )


def _of(load: Mapping[str, float], name: str) -> str:
    """A number, and the most there may be if that is known."""
    most = load.get(f"max_{name}")
    return f"{load.get(name, 0):.0f}" + ("" if most is None else f"/{most:.0f}")


def _mib(value: float) -> str:
    return size(value * MIB)


def _tokens(value: Any) -> str:
    return count(value) if isinstance(value, int) else ""


def _price(cost: Any) -> str:
    if not isinstance(cost, dict):
        return ""
    prices = [cost.get("input"), cost.get("output")]
    if not all(isinstance(price, int | float) for price in prices):
        return ""
    return ", ".join(f"{price:g}" for price in prices) if any(prices) else "free"
