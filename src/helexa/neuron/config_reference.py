"""The configuration reference, made from the settings themselves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import MISSING, Field
from typing import Any

from helexa.neuron.config import DEFAULT_PATH, NeuronConfig
from helexa.neuron.runtime import VARIABLES
from helexa.neuron.schema import Kind, Nested, settings_of

HEAD = f"""# Configuration of a neuron

`helexa neuron` reads `{DEFAULT_PATH}`, or the file that `--config` names. A key can
also be set by an environment variable: `NEURON_` and the key in capitals, with `__` for each dot,
such as `NEURON_ENGINE__ADMISSION__MAX_IN_FLIGHT=4`. A value that reads as a TOML boolean, number,
array or inline table is taken as one. Options of the command line are stronger than the
environment, which is stronger than the file.

`helexa neuron --check` says whether a configuration can be used. One that cannot is never started:
every problem is named with its key, variable or line. A key that does not exist only warns.
`[harness.candle]` is another name of the table `[engine]`, for files made for other daemons.

"""

VARIABLES_HEAD = """
## Environment

These are read at the start and have no key in the file.

| variable | default | meaning |
|---|---|---|
"""


def configuration_reference() -> str:
    """The text of docs/neuron-config.md."""
    parts = [HEAD, "| key | value | default | meaning |\n|---|---|---|---|\n"]
    parts += [
        f"| `{key}` | {wanted} | {default} | {doc} |\n" for key, wanted, default, doc in keys()
    ]
    parts.append(VARIABLES_HEAD)
    parts += [
        f"| `{name}` | {f'`{default}`' if default else 'none'} | {meaning} |\n"
        for name, default, meaning in VARIABLES
    ]
    return "".join(parts)


def keys(settings: type = NeuronConfig, prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Every key: its path, what it must be, its default, what it means."""
    for entry in settings_of(settings).values():
        name, kind = f"{prefix}{entry.name}", entry.metadata["kind"]
        if isinstance(kind, Kind):
            yield name, kind.wanted, default_of(entry), entry.metadata["doc"]
        elif isinstance(kind, Nested) and not kind.many:
            yield from keys(kind.settings, f"{name}.")
        elif kind.many == "rows":
            yield name, "a list of tables", default_of(entry), entry.metadata["doc"]
            yield from keys(kind.settings, f"{name}[].")
        else:
            yield name, "tables by name", "none", entry.metadata["doc"]
            yield from keys(kind.settings, f"{name}.<scheme>.")


def default_of(entry: Field[Any]) -> str:
    """The default as it would be written, or in words where it depends on other keys."""
    described: str = entry.metadata.get("default_text", "")
    if entry.metadata.get("required"):
        return "required"
    if described:
        return f"`{described}`" if described[0] in "[{" else described
    if entry.default in (None, MISSING):
        return "none"
    return f"`{json.dumps(entry.default)}`"
