"""A configuration from its layers: command line over environment over file over defaults."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helexa.errors import ConfigError
from helexa.neuron.bearer import required_bearer
from helexa.neuron.config import DEFAULT_PATH, NeuronConfig, SourceConfig
from helexa.neuron.ids import HARNESS
from helexa.neuron.schema import Findings, Kind, Nested, Node, kind_at, read_settings
from helexa.neuron.sources import BUILTIN, HUGGINGFACE

PREFIX = "NEURON_"
WIRE_NAME = ("harness", HARNESS)
OUR_NAME = ("engine",)
PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
EMPTY = Node({}, "")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration that can be used, and what an operator should know about it."""

    config: NeuronConfig
    path: Path
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Check:
    """What `--check` prints, on which stream, and its exit status."""

    stdout: str
    stderr: str
    exit_status: int


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
    from_environ = read_environ(environ, found)
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


def check_config(path: str | Path | None = None, **layers: Any) -> Check:
    """What `--check` answers; ``layers`` as of `load_config`."""
    try:
        loaded = load_config(path, **layers)
    except ConfigError as error:
        return Check("", f"{error}\n", 2)
    return Check("ok\n", "".join(f"warning: {text}\n" for text in loaded.warnings), 0)


def read_file(path: Path, *, required: bool) -> dict[str, Any] | None:
    """The parsed file, None if it need not exist and does not. Raises ConfigError."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        if required:
            raise ConfigError(str(path), ["no such file"]) from None
        return None
    except OSError as error:
        raise ConfigError(str(path), [f"cannot be read: {error.strerror or error}"]) from error
    try:
        text = data.decode("utf-8-sig")
        return tomllib.loads(text)
    except UnicodeDecodeError as error:
        place = last_place(data[: error.start].decode("utf-8"))
        raise ConfigError(str(path), [f"{place}: not UTF-8"]) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(str(path), [syntax_problem(str(error), text)]) from error
    except RecursionError as error:
        raise ConfigError(str(path), ["nested too deeply"]) from error


def syntax_problem(message: str, text: str) -> str:
    """`line L, column C: what is wrong there`."""
    match = PLACE.search(message)
    if match is None:
        return f"line 1, column 1: {message}"
    place = f"line {match[1]}, column {match[2]}" if match[1] else last_place(text)
    return f"{place}: {message[: match.start()]}"


def last_place(text: str) -> str:
    """The place just behind a text."""
    lines = text.split("\n")
    return f"line {len(lines)}, column {len(lines[-1]) + 1}"


def read_environ(environ: Mapping[str, str], found: Findings) -> Node:
    """What the environment sets; variables that name no key are none of our business."""
    layer = EMPTY
    for name in sorted(environ):
        keys = tuple(name.removeprefix(PREFIX).lower().split("__"))
        path = canonical(keys)
        kind = kind_at(NeuronConfig, path) if name.startswith(PREFIX) else None
        if kind is not None:
            node = Node.of(environ_value(environ[name], kind), name)
            for key in reversed(path):
                node = Node({key: node}, name)
            layer = join(layer, node, found)
    return layer


def canonical(keys: tuple[str, ...]) -> tuple[str, ...]:
    """A path of keys under our own name for the engine's table."""
    return OUR_NAME + keys[2:] if keys[:2] == WIRE_NAME else keys


def environ_value(text: str, kind: Kind | Nested) -> Any:
    """A TOML boolean, number, array or inline table if it is one and the key wants no text."""
    if (isinstance(kind, Kind) and kind.is_text) or "\n" in text:
        return text
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return text
    return value if isinstance(value, bool | int | float | list | dict) else text


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


def join(layer: Node, more: Node, found: Findings) -> Node:
    """Two parts of one layer; what both give is a problem."""
    for label, other in more.clashes(layer):
        found.problems.append(f"{label}: is also given as {other}")
    return more.over(layer)


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
