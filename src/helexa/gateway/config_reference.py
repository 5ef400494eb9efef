"""The configuration reference, made from the settings themselves."""

from __future__ import annotations

from helexa.daemon.reference import keys
from helexa.gateway.catalogue_file import CatalogueTables
from helexa.gateway.config import DEFAULT_PATH, GatewayConfig

HEAD = f"""# Configuration of a gateway

`helexa gateway` reads `{DEFAULT_PATH}`, or the file that `--config` names. A key can also
be set by an environment variable: `CORTEX_` and the key in capitals, with `__` for each dot, such
as `CORTEX_GATEWAY__LISTEN=0.0.0.0:31313`. A key that wants text takes the variable as it is; any
other reads it as TOML: `CORTEX_NEURONS='[{{name = "a", endpoint = "http://gpu-a:13131"}}]'`.
Options of the command line are stronger than the environment, which is stronger than the file.
Times are in seconds.

`helexa gateway --check` says whether a configuration and its catalogue can be used. One that cannot
is never started: every problem is named with its key, variable or line, and none shows a secret. A
key that does not exist only warns.

"""

CATALOGUE_HEAD = """
## The catalogue

`models_config` names a second file, which says what may be served. It is looked at every
`poller.interval_secs`, and read again when it has changed; SIGHUP has it read in any case. A file
that cannot be used leaves the old catalogue in force, and says so in the log. No model is unloaded
because of it. The rest of the configuration needs a restart. A model without `cost` is not priced;
one whose costs are 0.0 is free.

"""

VARIABLES_HEAD = """
## Environment

These are read at the start and have no key in the file.

"""

VARIABLES = (
    (
        "STATE_DIRECTORY",
        "`/var/lib/helexa-gateway`, or `~/.local/state/helexa` if that cannot be written",
        "folder of `ledger.db` where `entitlements.ledger` is `sqlite`",
    ),
    ("HELEXA_LOG", "`info`", "log level, unless `--log-level` is given"),
    ("RUST_LOG", "none", "its first plain level counts where `HELEXA_LOG` is not set"),
    ("HELEXA_LOG_FORMAT", "`text`", "`text` or `json`"),
)


def configuration_reference() -> str:
    """The text of docs/gateway-config.md."""
    parts = [HEAD, *table_of(GatewayConfig), CATALOGUE_HEAD, *table_of(CatalogueTables)]
    parts += [VARIABLES_HEAD, "| variable | default | meaning |\n|---|---|---|\n"]
    parts += [f"| `{name}` | {default} | {meaning} |\n" for name, default, meaning in VARIABLES]
    return "".join(parts)


def table_of(settings: type) -> list[str]:
    """The lines of a table of every key."""
    head = "| key | value | default | meaning |\n|---|---|---|---|\n"
    rows = [
        f"| `{key}` | {kind} | {default} | {doc} |\n" for key, kind, default, doc in keys(settings)
    ]
    return [head, *rows]
