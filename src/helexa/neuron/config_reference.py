"""The configuration reference, made from the settings themselves."""

from __future__ import annotations

from helexa.daemon.reference import keys
from helexa.neuron.config import DEFAULT_PATH, NeuronConfig
from helexa.neuron.runtime import VARIABLES

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
        f"| `{key}` | {wanted} | {default} | {doc} |\n"
        for key, wanted, default, doc in keys(NeuronConfig)
    ]
    parts.append(VARIABLES_HEAD)
    parts += [
        f"| `{name}` | {f'`{default}`' if default else 'none'} | {meaning} |\n"
        for name, default, meaning in VARIABLES
    ]
    return "".join(parts)
