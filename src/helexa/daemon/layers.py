"""What the configurations of our daemons have in common: a TOML file, an environment over it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helexa.daemon.schema import Findings, Kind, Nested, Node, kind_at
from helexa.errors import ConfigError

PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
EMPTY = Node({}, "")


@dataclass(frozen=True, slots=True)
class Check:
    """What `--check` prints, on which stream, and its exit status."""

    stdout: str
    stderr: str
    exit_status: int


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
    return parse_toml(data, str(path))


def parse_toml(data: bytes, path: str) -> dict[str, Any]:
    """What a file at ``path`` with these bytes says. Raises ConfigError."""
    try:
        text = data.decode("utf-8-sig")
        return tomllib.loads(text)
    except UnicodeDecodeError as error:
        place = last_place(data[: error.start].decode("utf-8"))
        raise ConfigError(path, [f"{place}: not UTF-8"]) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(path, [syntax_problem(str(error), text)]) from error
    except ValueError as error:  # an integer of more digits than Python reads
        raise ConfigError(path, [str(error).partition(";")[0]]) from error
    except RecursionError as error:
        raise ConfigError(path, ["nested too deeply"]) from error


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


def read_environ(
    environ: Mapping[str, str],
    prefix: str,
    settings: type,
    found: Findings,
    canonical: Callable[[tuple[str, ...]], tuple[str, ...]] = lambda keys: keys,
) -> Node:
    """What the environment sets; variables that name no key are none of our business.

    ``canonical`` gives the path of a key that has several names.
    """
    layer = EMPTY
    for name in sorted(environ):
        if not name.upper().startswith(prefix):
            continue
        path = canonical(tuple(name[len(prefix) :].lower().split("__")))
        kind = kind_at(settings, path)
        if kind is not None:
            node = Node.of(environ_value(environ[name], kind), name)
            for key in reversed(path):
                node = Node({key: node}, name)
            layer = join(layer, node, found)
    return layer


def environ_value(text: str, kind: Kind | Nested) -> Any:
    """A TOML boolean, number, array or inline table if it is one and the key wants no text."""
    if isinstance(kind, Kind) and kind.is_text:
        return text
    try:
        read = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    value = read.pop("value")
    return value if not read and isinstance(value, bool | int | float | list | dict) else text


def join(layer: Node, more: Node, found: Findings) -> Node:
    """Two parts of one layer; what both give is a problem."""
    for label, other in more.clashes(layer):
        found.problems.append(f"{label}: is also given as {other}")
    return more.over(layer)
