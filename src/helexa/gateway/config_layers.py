"""A configuration from its layers: command line over environment over file over defaults."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helexa.daemon.layers import EMPTY, read_environ, read_file
from helexa.daemon.schema import Findings, Node, read_settings
from helexa.errors import ConfigError
from helexa.gateway.config import DEFAULT_PATH, GatewayConfig
from helexa.gateway.config_checks import advice, check

PREFIX = "CORTEX_"

# Option of the command line → the key it sets. `neuron` is made of several words, see below.
OPTIONS = {
    "listen": ("gateway", "listen"),
    "metrics_listen": ("gateway", "metrics_listen"),
    "models": ("models_config",),
}


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration that can be used, and what an operator should know about it."""

    config: GatewayConfig
    path: Path
    warnings: tuple[str, ...]


def load_config(
    path: str | Path | None = None,
    *,
    environ: Mapping[str, str],
    options: Mapping[str, Any] | None = None,
    default_path: str | Path = DEFAULT_PATH,
) -> Loaded:
    """The configuration in effect.

    ``options`` are those of the command line: ``listen``, ``metrics_listen``, ``models``, and
    ``neuron``, words of the form NAME=URL. One that is None or empty is not given. Without
    ``path`` the default file is read, which may be absent. Raises ConfigError with every problem
    there is.
    """
    found = Findings()
    file = Path(default_path if path is None else path)
    written = read_file(file, required=path is not None)
    try:
        from_environ = read_environ(environ, PREFIX, GatewayConfig, found)
        stronger = read_options(options or {}, found).over(from_environ)
        node = stronger.over(Node.of(written or {}))
        config = read_settings(GatewayConfig, node, found)
    except RecursionError as error:
        raise ConfigError(str(file), ["nested too deeply"]) from error
    check(config, node, found)
    if found.problems:
        raise ConfigError(str(file), found.problems)
    warnings = [unknown_key(label, file, environ) for label in found.unknown]
    return Loaded(config, file, (*warnings, *advice(config, node)))


def read_options(options: Mapping[str, Any], found: Findings) -> Node:
    """What the command line sets."""
    layer = EMPTY
    for name, path in OPTIONS.items():
        if options.get(name) is not None:
            label = f"--{name.replace('_', '-')}"
            node = Node(options[name], label)
            for key in reversed(path):
                node = Node({key: node}, label)
            layer = node.over(layer)
    if words := options.get("neuron"):
        neurons = Node({"neurons": Node(neurons_of(words, found), "--neuron")}, "--neuron")
        layer = neurons.over(layer)
    return layer


def neurons_of(words: Iterable[str], found: Findings) -> list[dict[str, str]]:
    """The neurons that words of the form NAME=URL name."""
    neurons = []
    for word in words:
        name, equals, url = word.partition("=")
        if equals:
            neurons.append({"name": name, "endpoint": url})
        else:  # not shown: there may be a password in the URL
            found.problems.append("--neuron: expected NAME=URL, got a word without `=`")
    return neurons


def unknown_key(label: str, file: Path, environ: Mapping[str, str]) -> str:
    """What to say of a key that means nothing, in the file or in a variable's table."""
    if label.partition(".")[0].partition("[")[0] in environ:
        return f"unknown key {label}"
    return f"unknown key {label} in {file}"
