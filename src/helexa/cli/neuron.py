"""`helexa neuron`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from helexa.cli.options import debug_option, log_level_option


def _print_version(ctx: click.Context, _param: click.Parameter, asked: bool) -> None:
    if not asked or ctx.resilient_parsing:
        return
    from helexa.daemon.build import build_info, version_line
    from helexa.neuron.nvml import usable_cuda

    click.echo(version_line(build_info(os.environ, cuda_version=usable_cuda())))
    ctx.exit()


def _devices(_ctx: click.Context, _param: click.Parameter, text: str | None) -> list[int] | None:
    """The numbers of a list such as ``0,1``."""
    if text is None:
        return None
    words = text.split(",")
    if not all(word.isascii() and word.isdecimal() for word in words):
        raise click.BadParameter(f"{text!r} is not a list of device numbers such as 0,1")
    return [int(word) for word in words]


def _smoke(size: int | None, devices: list[int] | None) -> None:
    """Let ranks meet once, and say how it went."""
    if size is None:
        raise click.UsageError("--tp-smoke needs --tp-size")
    devices = list(range(size)) if devices is None else devices
    if len(devices) != size:
        raise click.UsageError(f"--cuda-devices lists {len(devices)} devices, --tp-size is {size}")
    from helexa.engine.tp_smoke import smoke

    smoke(devices)
    click.echo(f"status=ok\ntp_size={size}\ncuda_devices={','.join(map(str, devices))}")


@click.command()
@click.option(
    "-c",
    "--config",
    "path",
    type=click.Path(path_type=Path),
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
@log_level_option
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version, its commit and what it can use, and leave.",
)
@click.option("--tp-smoke", is_flag=True, help="Let --tp-size ranks meet once, and leave.")
@click.option("--tp-size", type=click.IntRange(min=2), metavar="N", help="Ranks for --tp-smoke.")
@click.option("--cuda-devices", callback=_devices, metavar="A,B", help="A device for each rank.")
@debug_option
@click.pass_context
def neuron(
    ctx: click.Context,
    /,
    path: Path | None,
    port: int | None,
    host: str | None,
    check: bool,
    log_level: str | None,
    **smoke: Any,
) -> None:
    """Serve models on this host, as a daemon.

    One process with an OpenAI-compatible API; each model lives in a child of its own. Models are
    loaded from `default_models` of the configuration, or at run time by POST /models/load.
    """
    options = {"port": port, "host": host}
    if smoke["tp_smoke"]:
        _smoke(smoke["tp_size"], smoke["cuda_devices"])
    elif smoke["tp_size"] or smoke["cuda_devices"]:
        raise click.UsageError("--tp-size and --cuda-devices belong to --tp-smoke")
    elif check:
        _check(ctx, path, options)
    else:
        _serve(ctx, path, options, log_level)


def _check(ctx: click.Context, path: Path | None, options: Mapping[str, Any]) -> None:
    from helexa.neuron.config_layers import check_config

    found = check_config(path, environ=os.environ, options=options)
    click.echo(found.stdout, nl=False)
    click.echo(found.stderr, nl=False, err=True)
    ctx.exit(found.exit_status)


def _serve(
    ctx: click.Context, path: Path | None, options: Mapping[str, Any], log_level: str | None
) -> None:
    from helexa.daemon.leaving import leave
    from helexa.daemon.logs import choose_format, choose_level, configure_logging
    from helexa.daemon.patient import patient

    with patient(sys.stderr) as log:
        configure_logging(choose_level(log_level, os.environ), choose_format(os.environ), log)
        _run(ctx, path, options)
    leave()


def _run(ctx: click.Context, path: Path | None, options: Mapping[str, Any]) -> None:
    from helexa.errors import ConfigError
    from helexa.neuron.config_layers import load_config
    from helexa.neuron.runtime import read_runtime

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
