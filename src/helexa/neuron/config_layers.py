"""A configuration from its layers: command line over environment over file over defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helexa.daemon.layers import Check, join, read_environ, read_file
from helexa.daemon.schema import Findings, Node, read_settings
from helexa.errors import ConfigError
from helexa.neuron.bearer import required_bearer
from helexa.neuron.config import DEFAULT_PATH, EngineSection, NeuronConfig, SourceConfig
from helexa.neuron.ids import HARNESS
from helexa.neuron.sources import BUILTIN, HUGGINGFACE

PREFIX = "NEURON_"
WIRE_NAME = ("harness", HARNESS)
OUR_NAME = ("engine",)
ENVIRONMENT = "the environment"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration that can be used, and what an operator should know about it."""

    config: NeuronConfig
    path: Path
    warnings: tuple[str, ...]


def load_config(
    path: str | Path | None = None,
    *,
    environ: Mapping[str, str],
    options: Mapping[str, Any] | None = None,
    default_path: str | Path = DEFAULT_PATH,
) -> Loaded:
    """The configuration in effect; ``options`` are those given on the command line, by key.

    Without ``path`` the default file is read, which may be absent. Raises ConfigError with every
    problem there is.
    """
    found = Findings()
    file = Path(default_path if path is None else path)
    written = read_file(file, required=path is not None)
    from_file = unify(Node.of(written or {}), found)
    from_environ = read_environ(environ, PREFIX, NeuronConfig, found, canonical)
    given = {key: value for key, value in (options or {}).items() if value is not None}
    from_options = Node({key: Node(value, f"--{key}") for key, value in given.items()}, "")
    node = from_options.over(from_environ).over(from_file)
    config = read_settings(NeuronConfig, node, found)
    check_sources(config, node, found)
    if found.problems:
        raise ConfigError(str(file), found.problems)
    warnings = [f"unknown key {label} in {file}" for label in found.unknown]
    warnings += advice(config)
    warnings += open_door(config, environ)
    if written is not None and "host" not in node.value:
        warnings.append(f"{file} does not set host: listening on {config.host} only")
    return Loaded(config, file, tuple(warnings))


def engine_of(environ: Mapping[str, str]) -> EngineSection:
    """The engine's settings as the environment alone gives them; it is not read for others.

    Raises ConfigError with every problem there is.
    """
    found = Findings()
    whole = read_environ(environ, PREFIX, NeuronConfig, found, canonical)
    (name,) = OUR_NAME
    node = Node({key: value for key, value in whole.value.items() if key == name}, "")
    config = read_settings(NeuronConfig, node, found)
    check_sources(config, node, found)
    if found.problems:
        raise ConfigError(ENVIRONMENT, found.problems)
    return config.engine


def check_config(path: str | Path | None = None, **layers: Any) -> Check:
    """What `--check` answers; ``layers`` as of `load_config`."""
    try:
        loaded = load_config(path, **layers)
    except ConfigError as error:
        return Check("", f"{error}\n", 2)
    return Check("ok\n", "".join(f"warning: {text}\n" for text in loaded.warnings), 0)


def canonical(keys: tuple[str, ...]) -> tuple[str, ...]:
    """A path of keys under our own name for the engine's table."""
    return OUR_NAME + keys[2:] if keys[:2] == WIRE_NAME else keys


def unify(file: Node, found: Findings) -> Node:
    """A file's tables with the engine's under our own name, whichever name it was given."""
    wire = file.value.get(WIRE_NAME[0])
    if wire is None:
        return file
    rest = {key: node for key, node in file.value.items() if key != WIRE_NAME[0]}
    if not wire.is_table:
        found.wrong(wire.label, "a table", wire.raw)
        return Node(rest, "")
    found.unknown += [node.label for key, node in wire.value.items() if key != HARNESS]
    engine = wire.value.get(HARNESS)
    if engine is None:
        return Node(rest, "")
    return join(Node(rest, ""), Node({OUR_NAME[0]: engine}, ""), found)


def check_sources(config: NeuronConfig, node: Node, found: Findings) -> None:
    """Note every source that cannot be one."""
    engine = node.value.get("engine")
    written = engine.value.get("sources") if engine is not None and engine.is_table else None
    for scheme, source in config.engine.sources.items():
        label = written.value[scheme].label if written is not None else scheme
        if why := bad_scheme(scheme):
            found.problems.append(f"{label}: {why}")
        known = (f"{label}:", f"{label}.")  # one problem of a source is enough
        if not one_place(source) and not any(p.startswith(known) for p in found.problems):
            found.problems.append(f"{label}: needs either endpoint or path")


def one_place(source: SourceConfig) -> bool:
    return (source.endpoint is None) != (source.path is None)


def bad_scheme(scheme: str) -> str:
    """What is wrong with a scheme's name, empty if nothing is."""
    if not scheme:
        return "a scheme cannot be empty"
    if scheme == BUILTIN:
        return f"the scheme {BUILTIN} is taken by what ships with the package"
    if "/" in scheme or ":" in scheme:
        return f"the scheme {scheme!r} contains `/` or `:`"
    return ""


def advice(config: NeuronConfig) -> list[str]:
    """What is allowed, but hardly meant."""
    found = [
        f"unknown harness {harness.name!r} skipped; there is {HARNESS}"
        for harness in config.harnesses
        if harness.name != HARNESS
    ]
    engine = config.engine
    schemes = sorted({*engine.sources, HUGGINGFACE, BUILTIN})
    if engine.default_source not in schemes:
        known = ", ".join(schemes)
        found.append(f"default_source {engine.default_source!r} names no source; known: {known}")
    return found


def open_door(config: NeuronConfig, environ: Mapping[str, str]) -> list[str]:
    """What to say of a secret that was meant to be asked for, and is not there."""
    if not config.auth_env or required_bearer(config.auth_env, environ) is not None:
        return []
    return [f"auth_env names {config.auth_env}, which is not set or empty: anyone may come in"]
