"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path

import click

DEFAULT_MODEL = "tiny"
DEBUG = "helexa.debug"
MODEL_HELP = (
    "MODEL is `tiny` (ships with helexa, the default), a folder, or a hub id such as"
    " Qwen/Qwen3-0.6B."
)


def _set_debug(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value:
        ctx.find_root().meta[DEBUG] = True


debug_option = click.option(
    "--debug",
    is_flag=True,
    expose_value=False,
    callback=_set_debug,
    help="Show the traceback of an error.",
)
LEVELS = ("error", "warning", "warn", "info", "debug", "trace")
log_level_option = click.option(
    "--log-level",
    metavar="LEVEL",
    type=click.Choice(LEVELS, case_sensitive=False),
    help="error, warning, info, debug or trace.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
cache_dir_option = click.option(
    "--cache-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where downloads are kept.  [default: HF_HUB_CACHE, HF_HOME/hub, ~/.cache/…]",
)
revision_option = click.option(
    "--revision", default="main", show_default=True, help="Branch, tag or commit on the hub."
)
offline_option = click.option("--offline", is_flag=True, help="Use only what is on disk.")
