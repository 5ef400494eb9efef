"""`helexa serve`."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click

from helexa.cli.options import DEFAULT_MODEL, MODEL_HELP, debug_option
from helexa.cli.terminal import console

if TYPE_CHECKING:
    from helexa.http import Server
    from helexa.neuron.config import EngineSection

BUILTIN = "builtin:helexa/tiny"
SCHEME = "folder"
ORG = "local"


@click.command(epilog=MODEL_HELP)
@click.argument("model", default=DEFAULT_MODEL)
@click.option("-p", "--port", type=int, default=13131, show_default=True, help="0: a free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@debug_option
def serve(model: str, port: int, host: str) -> None:
    """Serve one model on this machine.

    Speaks OpenAI's API. Prints where, and a line to try it with, as soon as the model answers; ^C
    shuts it down. A folder NAME is served as `folder:local/NAME`.
    """
    import anyio

    from helexa.neuron.app import Neuron
    from helexa.neuron.config import NeuronConfig
    from helexa.neuron.ids import ModelSpec
    from helexa.neuron.logs import choose_format, configure_logging
    from helexa.neuron.patient import patient
    from helexa.neuron.run import run
    from helexa.neuron.runtime import read_runtime

    with patient(sys.stderr) as log, _placed(model) as (id, engine):
        configure_logging(30, choose_format(os.environ), log)
        config = NeuronConfig(port=port, host=host, engine=engine)
        neuron = Neuron(config, read_runtime(os.environ), os.environ, dedicated=False)

        async def ready(server: Server) -> None:
            with console(sys.stderr).status(f"loading {id}"):
                await neuron.load(ModelSpec(model_id=id))
            _announce(server.url, id)

        anyio.run(run, neuron, ready)


@contextmanager
def _placed(model: str) -> Iterator[tuple[str, EngineSection]]:
    """The id that a daemon knows a model by, and the settings with which it finds it.

    A folder gets a source of its own, whose only model it is: a link to it, as its path need not
    be of a form that a model's id can have. Raises PreflightError, UnsupportedModel.
    """
    from helexa.engine.checkpoint.reference import HubId, LocalFolder, parse_reference
    from helexa.engine.checkpoint.resolve import on_disk
    from helexa.neuron.config import EngineSection, SourceConfig

    reference = parse_reference(model)
    if isinstance(reference, HubId):
        yield model, EngineSection()
        return
    folder = on_disk(reference)
    if folder is None or not isinstance(reference, LocalFolder):
        yield BUILTIN, EngineSection()
        return
    name = folder_name(folder)
    with TemporaryDirectory(prefix="helexa-serve-") as root:
        link = Path(root, ORG, name)
        link.parent.mkdir()
        link.symlink_to(folder.absolute(), target_is_directory=True)
        sources = {SCHEME: SourceConfig(path=root)}
        yield f"{SCHEME}:{ORG}/{name}", EngineSection(sources=sources)


def folder_name(folder: Path) -> str:
    """What a folder is called, in characters that a model's name may have."""
    name = re.sub(r"[^0-9A-Za-z._-]+", "-", folder.absolute().resolve().name)
    return name if name.strip(".-") else "model"


def _announce(url: str, id: str) -> None:
    """Say where the model answers, and how to ask it."""
    body = {"model": id, "messages": [{"role": "user", "content": "Hello!"}]}
    click.echo(f"{id} answers at {url}/v1")
    click.echo(
        f"  curl -s {url}/v1/chat/completions -H 'Content-Type: application/json' \\\n"
        f"    -d '{json.dumps(body)}'"
    )
    click.echo("^C ends it.", err=True)
