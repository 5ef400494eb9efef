"""`helexa serve`."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

import click

from helexa.cli.options import DEFAULT_MODEL, MODEL_HELP, debug_option
from helexa.cli.terminal import console

if TYPE_CHECKING:
    from helexa.http import Server

BUILTIN = "builtin:helexa/tiny"


@click.command(epilog=MODEL_HELP)
@click.argument("model", default=DEFAULT_MODEL)
@click.option("-p", "--port", type=int, default=13131, show_default=True, help="0: a free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@debug_option
def serve(model: str, port: int, host: str) -> None:
    """Serve one model on this machine.

    Speaks OpenAI's API. Prints where, and a line to try it with, as soon as the model answers; ^C
    shuts it down.
    """
    import anyio

    from helexa.neuron.app import Neuron
    from helexa.neuron.config import NeuronConfig
    from helexa.neuron.ids import ModelSpec
    from helexa.neuron.logs import choose_format, configure_logging
    from helexa.neuron.run import run
    from helexa.neuron.runtime import read_runtime

    configure_logging(30, choose_format(os.environ), sys.stderr)
    id = BUILTIN if model == DEFAULT_MODEL else model
    config = NeuronConfig(port=port, host=host)
    neuron = Neuron(config, read_runtime(os.environ), os.environ)

    async def ready(server: Server) -> None:
        with console(sys.stderr).status(f"loading {id}"):
            await neuron.load(ModelSpec(model_id=id))
        _announce(server.url, id)

    anyio.run(run, neuron, ready)


def _announce(url: str, id: str) -> None:
    """Say where the model answers, and how to ask it."""
    body = {"model": id, "messages": [{"role": "user", "content": "Hello!"}]}
    click.echo(f"{id} answers at {url}/v1")
    click.echo(
        f"  curl -s {url}/v1/chat/completions -H 'Content-Type: application/json' \\\n"
        f"    -d '{json.dumps(body)}'"
    )
    click.echo("^C ends it.", err=True)
