"""`helexa neuron`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from helexa.cli.options import debug_option


@click.command()
@click.option(
    "-c",
    "--config",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Configuration file.  [default: /etc/helexa/neuron.toml, if there is one]",
)
@click.option("-p", "--port", type=int, help="Port; 0 takes a free one.")
@click.option("--host", metavar="ADDR", help="Address to listen on.")
@click.option(
    "--check",
    "--check-config",
    "check",
    is_flag=True,
    help="Read the configuration, say what is wrong with it, and leave.",
)
@click.option("--log-level", metavar="LEVEL", help="error, warning, info or debug.")
@debug_option
@click.pass_context
def neuron(
    ctx: click.Context,
    path: Path | None,
    port: int | None,
    host: str | None,
    check: bool,
    log_level: str | None,
) -> None:
    """Serve models on this host, as a daemon.

    One process with an OpenAI-compatible API; each model lives in a child of its own. Models are
    loaded from `default_models` of the configuration, or at run time by POST /models/load.
    """
    from helexa.errors import ConfigError
    from helexa.neuron.config_layers import check_config, load_config
    from helexa.neuron.logs import choose_format, choose_level, configure_logging
    from helexa.neuron.runtime import read_runtime

    options = {"port": port, "host": host}
    if check:
        found = check_config(path, environ=os.environ, options=options)
        click.echo(found.stdout, nl=False)
        click.echo(found.stderr, nl=False, err=True)
        ctx.exit(found.exit_status)
    level = choose_level(log_level, os.environ)
    configure_logging(level, choose_format(os.environ), sys.stderr)
    try:
        loaded = load_config(path, environ=os.environ, options=options)
    except ConfigError as error:
        click.echo(str(error), err=True)
        ctx.exit(2)
    runtime = read_runtime(os.environ)

    import logging

    import anyio

    from helexa.neuron.app import Neuron
    from helexa.neuron.run import run

    for warning in (*loaded.warnings, *runtime.warnings):
        logging.getLogger("helexa.neuron").warning("%s", warning)
    anyio.run(run, Neuron(loaded.config, runtime, os.environ))
