"""`helexa status`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import click

from helexa.cli.fleet_view import FleetView, Gateway, plain_text, read_fleet
from helexa.cli.options import debug_option, json_option
from helexa.cli.terminal import console, is_terminal, show
from helexa.errors import HelexaError

ENDPOINT = "http://localhost:31313"
PAUSE_S = 2.0


def _url(_ctx: click.Context, _param: click.Parameter, text: str | None) -> str | None:
    return text if text is None or "://" in text else f"http://{text}"


def _key(_ctx: click.Context, _param: click.Parameter, text: str | None) -> str | None:
    """A key as it can be sent; what is wrong with one is said without showing it."""
    key = (text or "").strip()
    if not key.isprintable():
        raise click.BadParameter("it has characters that cannot be sent")
    return key or None


@click.command()
@click.option(
    *("-e", "--endpoint"),
    metavar="URL",
    default=ENDPOINT,
    show_default=True,
    callback=_url,
    help="The gateway.",
)
@click.option(
    "--key",
    envvar="HELEXA_API_KEY",
    show_envvar=True,
    callback=_key,
    help="Key, sent as bearer.",
)
@click.option(
    "--metrics",
    "metrics_url",
    metavar="URL",
    callback=_url,
    help="Its metrics, for hosts and loads.  [default: port 31314 of the same host]",
)
@click.option(
    "--watch",
    "pause_s",
    metavar="[SECONDS]",
    is_flag=False,
    flag_value=PAUSE_S,
    type=click.FloatRange(min=0.1),
    help=f"Look again every so often, {PAUSE_S:g} s if not said, until ^C.",
)
@json_option
@debug_option
def status(
    endpoint: str, key: str | None, metrics_url: str | None, pause_s: float | None, as_json: bool
) -> None:
    """Show the models of a fleet, and its hosts and their loads.

    Asks a gateway for its health and its models. At a terminal the report is tables; elsewhere it
    is plain text. What hosts and devices do is told by the gateway's metrics, if they can be
    reached.
    """
    gateway = Gateway(endpoint, key, metrics_url)
    tables = not as_json and is_terminal(sys.stdout)
    import httpx

    with httpx.Client(trust_env=False) as client:

        def look() -> FleetView:
            return read_fleet(client, gateway, hosts=tables)

        if tables:
            _show_tables(look, pause_s)
        else:
            _print(look, _document if as_json else plain_text, pause_s)


def _document(view: FleetView) -> str:
    return json.dumps({"health": view.health, "models": view.models}, indent=2)


def _print(
    look: Callable[[], FleetView], text: Callable[[FleetView], str], pause_s: float | None
) -> None:
    if pause_s is None:
        click.echo(text(look()))
        return
    while True:
        try:
            click.echo(text(look()) + "\n")
        except HelexaError as error:  # it may be back at the next look
            click.echo(f"error: {error.message}", err=True)
        time.sleep(pause_s)


def _show_tables(look: Callable[[], FleetView], pause_s: float | None) -> None:
    from helexa.cli.fleet_tables import fleet_tables

    out = console(sys.stdout)
    if pause_s is None:
        show(out, fleet_tables(look()))
        return
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    foot = Text(f"\nevery {pause_s:g} s, ^C ends", style="dim")
    with Live(console=out, auto_refresh=False) as live:
        while True:
            try:
                seen: Any = fleet_tables(look())
            except HelexaError as error:
                seen = Text(f"error: {error.message}", style="red")
            live.update(Group(seen, foot), refresh=True)
            time.sleep(pause_s)
