"""`helexa serve`."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from helexa.cli import daemon_options
from helexa.cli.model_options import LoadOptions, load_options
from helexa.cli.options import DEFAULT_MODEL, MODEL_HELP, debug_option
from helexa.cli.terminal import console

if TYPE_CHECKING:
    import anyio

    from helexa.gateway.catalogue_file import CatalogueFile
    from helexa.gateway.config import GatewayConfig
    from helexa.gateway.config_layers import Loaded
    from helexa.gateway.run import Gateway, Servers
    from helexa.http import Server
    from helexa.neuron.app import Neuron
    from helexa.neuron.config import SourceConfig
    from helexa.neuron.ids import ModelSpec

PORT = click.IntRange(0, 65535)
NEURON_PORT = 13131
BUILTIN = "builtin:helexa/tiny"
SCHEME = "folder"
ORG = "local"


@dataclass(frozen=True, slots=True)
class Ports:
    """What the command line says of addresses; None: nothing. A main port 0 makes all three so."""

    port: int | None
    host: str | None
    neuron_port: int | None
    metrics_port: int | None

    @property
    def neuron(self) -> int:
        """The daemon's port."""
        if self.neuron_port is not None:
            return self.neuron_port
        return 0 if self.port == 0 else NEURON_PORT

    def listening(self, config: GatewayConfig) -> GatewayConfig:
        """The gateway's configuration with these addresses instead of its own."""
        from helexa.gateway.run import join_address, split_address

        host, port = split_address(config.gateway.listen)
        host = host if self.host is None else self.host
        listen = join_address(host, port if self.port is None else self.port)
        metrics = config.gateway.metrics_listen
        if self.metrics_port is not None or (self.port == 0 and metrics):
            metrics = join_address("127.0.0.1", self.metrics_port or 0)
        told = replace(config.gateway, listen=listen, metrics_listen=metrics)
        return replace(config, gateway=told)


@click.command(epilog=MODEL_HELP)
@click.argument("model", default=DEFAULT_MODEL)
@click.option("-p", "--port", type=PORT, help="0: a free one, for all three.  [default: 31313]")
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option(
    "--neuron-port",
    type=PORT,
    help="Of the daemon behind it, on this machine only.  [default: 13131]",
)
@click.option(
    "--metrics-port", type=PORT, help="For Prometheus, on this machine only.  [default: 31314]"
)
@click.option(
    "-c",
    "--config",
    "path",
    type=click.Path(path_type=Path),
    help="Configuration of a gateway, for keys, budgets and limits.",
)
@load_options
@debug_option
@click.pass_context
def serve(
    ctx: click.Context, /, model: str, path: Path | None, load: LoadOptions, **ports: Any
) -> None:
    """Serve one model on this machine.

    A gateway and a daemon in one: it speaks the APIs of OpenAI and Anthropic. Prints where, and a
    line to try it with, as soon as the model answers; ^C shuts it down. A folder NAME is served as
    `folder:local/NAME`. NEURON_ENGINE__… variables set what has no option here.
    """
    from helexa.daemon.leaving import leave
    from helexa.daemon.logs import choose_format, configure_logging
    from helexa.daemon.patient import patient
    from helexa.errors import ConfigError

    daemon_options.check(load)
    try:
        with patient(sys.stderr) as log:
            configure_logging(30, choose_format(os.environ), log)
            _serve(model, path, load, Ports(**ports))
    except ConfigError as error:
        click.echo(str(error), err=True)
        ctx.exit(2)
    leave()


def _serve(model: str, path: Path | None, load: LoadOptions, ports: Ports) -> None:
    loaded = _loaded(path, ports)  # before anything that takes long
    wanted = daemon_options.engine_section(load, os.environ)
    environ = daemon_options.surroundings(load, os.environ)
    import logging

    import anyio

    from helexa.gateway.catalogue_file import open_catalogue
    from helexa.http.faults import BindError
    from helexa.neuron.app import Neuron
    from helexa.neuron.config import NeuronConfig
    from helexa.neuron.run import run
    from helexa.neuron.runtime import read_runtime

    runtime = read_runtime(environ)
    with _placed(model, load.quant) as (id, sources):
        catalogue = open_catalogue(loaded, dict.fromkeys(short_names(model, id), id))
        for warning in (*loaded.warnings, *catalogue.warnings, *runtime.warnings):
            logging.getLogger("helexa.gateway").warning("%s", warning)
        engine = replace(wanted, sources={**wanted.sources, **sources})
        config = NeuronConfig(port=ports.neuron, engine=engine)
        devices = daemon_options.sampler(load)
        neuron = Neuron(config, runtime, environ, sampler=devices, dedicated=False)
        spec = daemon_options.model_spec(id, load)
        try:
            anyio.run(run, neuron, Front(neuron, spec, loaded, catalogue))
        except BindError as error:
            error.hint = error.hint or "choose another with --neuron-port"
            raise


def _loaded(path: Path | None, ports: Ports) -> Loaded:
    """The gateway's settings, its only neuron the one of this machine. Raises ConfigError."""
    from helexa.gateway.config_layers import load_config

    name = socket.gethostname() or "localhost"
    given: dict[str, Any] = {"neuron": (f"{name}=http://127.0.0.1:{ports.neuron or NEURON_PORT}",)}
    if path is None:
        given["models"] = ""
    loaded = load_config(path, environ=os.environ, options=given, default_path=os.devnull)
    return replace(loaded, config=ports.listening(loaded.config))


def short_names(model: str, id: str) -> tuple[str, ...]:
    """What else the model may be called, beside its id; where a folder is, is nobody's business."""
    scheme, _, bare = id.partition(":")
    names = (bare,) if scheme == SCHEME else (model, bare)
    return tuple(name for name in dict.fromkeys(names) if name and name != id)


@dataclass(frozen=True, slots=True)
class Front:
    """Loads the model while the daemon runs, and runs the gateway that answers for it.

    ``loaded`` and ``catalogue`` are the gateway's settings.
    """

    neuron: Neuron
    spec: ModelSpec
    loaded: Loaded
    catalogue: CatalogueFile

    @property
    def id(self) -> str:
        """The name of the model."""
        return self.spec.model_id

    async def __call__(self, server: Server, leaving: anyio.Event) -> None:
        """Serve until ``leaving``, then drain. Raises BindError, ConfigError, what a load raises.

        Until the model is loaded, clients are told to come back.
        """
        import anyio

        from helexa.errors import ConfigError
        from helexa.gateway.refusals import LedgerUnusable
        from helexa.gateway.run import Gateway, Servers, reload_on_hangup

        config = self.loaded.config
        (entry,) = config.neurons
        here = replace(entry, endpoint=server.url)
        gateway = Gateway(replace(config, neurons=(here,)), self.catalogue, os.environ)
        servers = Servers(gateway)
        await servers.bind(("--port or --host", "--metrics-port"))
        self.neuron.activation.start(self.id)  # so the gateway knows why nobody has it yet
        try:
            async with gateway.running(), anyio.create_task_group() as tasks:
                tasks.start_soon(self._load, gateway, servers)
                tasks.start_soon(reload_on_hangup, gateway)
                await servers.serve(leaving)
                tasks.cancel_scope.cancel()
        except LedgerUnusable as error:
            raise ConfigError(str(self.loaded.path), [str(error)]) from error

    async def _load(self, gateway: Gateway, servers: Servers) -> None:
        from helexa.gateway.poller import poll_once

        daemon_options.require_card(self.spec, self.neuron.hardware)
        with console(sys.stderr).status(f"loading {self.id}"):
            await self.neuron.load(self.spec)
        self.neuron.activation.complete(self.id)
        await poll_once(gateway.state)
        _announce(self.id, servers, self.loaded.config.entitlements.require_auth)


@contextmanager
def _placed(model: str, quant: str | None) -> Iterator[tuple[str, Mapping[str, SourceConfig]]]:
    """The id that a daemon knows a model by, and the source in which it finds it, if it needs one.

    A folder or file gets a source of its own, whose only model it is: a link to it, as its path
    need not be of a form that a model's id can have. ``quant`` chooses one of several GGUF files.
    Raises PreflightError, UnsupportedModel.
    """
    from helexa.engine.checkpoint.reference import Builtin, HubId, parse_reference
    from helexa.engine.checkpoint.resolve import on_disk
    from helexa.neuron.config import SourceConfig

    reference = parse_reference(model)
    if isinstance(reference, HubId):
        yield model, {}
        return
    path = on_disk(reference, quant)
    if path is None or isinstance(reference, Builtin):
        yield BUILTIN, {}
        return
    name = model_name(path)
    with TemporaryDirectory(prefix="helexa-serve-") as root:
        link = Path(root, ORG, name)
        link.parent.mkdir()
        if path.is_dir():
            link.symlink_to(path.absolute(), target_is_directory=True)
        else:
            link.mkdir()
            link_gguf(path, link)
        yield f"{SCHEME}:{ORG}/{name}", {SCHEME: SourceConfig(path=root)}


def model_name(path: Path) -> str:
    """What a folder or a GGUF file is called, in characters that a model's name may have."""
    from helexa.engine.checkpoint.resolve import is_gguf

    own = path.stem if is_gguf(path) else path.absolute().resolve().name
    name = re.sub(r"[^0-9A-Za-z._-]+", "-", own)
    return name if name.strip(".-") else "model"


def link_gguf(file: Path, folder: Path) -> None:
    """Show a GGUF file in ``folder``, all its parts, and what its text layer takes from beside it.

    Of its metadata nothing is lost by that, and no other GGUF file is there to choose.
    """
    from helexa.engine.checkpoint.files import GENERATION_CONFIG, TokenizerFiles
    from helexa.engine.checkpoint.gguf_file import parts_of
    from helexa.engine.checkpoint.gguf_folder import tokenizer_files

    wanted = tokenizer_files(file, {})
    beside = [getattr(wanted, name) for name in TokenizerFiles.__dataclass_fields__]
    parts = [file.parent / part for part in parts_of(file.name)]
    for path in (*parts, file.parent / GENERATION_CONFIG, *beside):
        if isinstance(path, Path) and path.is_file():
            (folder / path.name).symlink_to(path.absolute())


def _announce(id: str, servers: Servers, needs_key: bool) -> None:
    """Say where the model answers, and how to ask it."""
    url = servers.api.url
    body = {"model": id, "messages": [{"role": "user", "content": "Hello!"}]}
    key = '    -H "Authorization: Bearer $HELEXA_API_KEY" \\\n' if needs_key else ""
    click.echo(f"{id} answers at {url}/v1")
    click.echo(
        f"  curl -s {url}/v1/chat/completions -H 'Content-Type: application/json' \\\n"
        f"{key}    -d '{json.dumps(body)}'"
    )
    if servers.metrics is not None:
        click.echo(f"Metrics are at {servers.metrics.url}/metrics", err=True)
    click.echo("^C ends it.", err=True)
