"""`helexa gateway`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from helexa.cli.options import debug_option, log_level_option

if TYPE_CHECKING:
    from helexa.gateway.catalogue_file import CatalogueFile
    from helexa.gateway.config_layers import Loaded


@click.command()
@click.option(
    "-c",
    "--config",
    "path",
    type=click.Path(path_type=Path),
    help="Configuration file.  [default: /etc/helexa/gateway.toml, if there is one]",
)
@click.option("--listen", metavar="ADDR", help="Address of the API, as host:port.")
@click.option("--metrics-listen", metavar="ADDR", help='Address for Prometheus; "" for none.')
@click.option("--models", metavar="PATH", help="The catalogue, a TOML file.")
@click.option(
    "--neuron",
    metavar="NAME=URL",
    multiple=True,
    help="A neuron, instead of those configured; may be repeated.",
)
@click.option(
    "--check", is_flag=True, help="Read the configuration, say what is wrong with it, and leave."
)
@log_level_option
@debug_option
@click.pass_context
def gateway(
    ctx: click.Context,
    /,
    path: Path | None,
    check: bool,
    log_level: str | None,
    **options: Any,
) -> None:
    """Serve one address for many neurons, as a daemon.

    Speaks the APIs of OpenAI and Anthropic, chooses a neuron for each request, loads and evicts
    models there, and keeps the budgets of keys. It needs no accelerator.
    """
    loaded, catalogue = _load(ctx, path, options)
    if check:
        for warning in (*loaded.warnings, *catalogue.warnings):
            click.echo(f"warning: {warning}", err=True)
        click.echo("ok")
    else:
        _serve(ctx, loaded, catalogue, log_level)


def _load(
    ctx: click.Context, path: Path | None, options: Mapping[str, Any]
) -> tuple[Loaded, CatalogueFile]:
    """What the files say; leaves with 2 where they cannot be used."""
    from helexa.errors import ConfigError
    from helexa.gateway.catalogue_file import open_catalogue
    from helexa.gateway.config_layers import load_config

    try:
        loaded = load_config(path, environ=os.environ, options=options)
        return loaded, open_catalogue(loaded)
    except ConfigError as error:
        _refuse(ctx, error)


def _serve(
    ctx: click.Context, loaded: Loaded, catalogue: CatalogueFile, log_level: str | None
) -> None:
    from helexa.daemon.logs import choose_format, choose_level, configure_logging
    from helexa.daemon.patient import patient

    with patient(sys.stderr) as log:
        configure_logging(choose_level(log_level, os.environ), choose_format(os.environ), log)
        _run(ctx, loaded, catalogue)


def _run(ctx: click.Context, loaded: Loaded, catalogue: CatalogueFile) -> None:
    import gc
    import logging

    gc.disable()  # all that is made now stays: looking through it would be a twentieth of the start
    import anyio

    from helexa.errors import ConfigError
    from helexa.gateway.run import run_gateway

    gc.enable()
    for warning in (*loaded.warnings, *catalogue.warnings):
        logging.getLogger("helexa.gateway").warning("%s", warning)
    try:
        ctx.exit(anyio.run(run_gateway, loaded, catalogue, os.environ))
    except ConfigError as error:  # a ledger that cannot be opened
        _refuse(ctx, error)


def _refuse(ctx: click.Context, error: Exception) -> NoReturn:
    click.echo(str(error), err=True)
    ctx.exit(2)
