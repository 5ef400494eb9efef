"""`helexa pull`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from helexa.cli.options import cache_dir_option, debug_option, json_option, revision_option
from helexa.cli.progress import download_progress
from helexa.cli.services import services
from helexa.cli.terminal import size, styled


@click.command()
@click.argument("model")
@revision_option
@cache_dir_option
@json_option
@debug_option
@click.pass_context
def pull(
    ctx: click.Context, model: str, revision: str, cache_dir: Path | None, as_json: bool
) -> None:
    """Download a model.

    What is there already is not fetched again, and what was cut off goes on. Prints the folder on
    stdout; progress goes to stderr.
    """
    with download_progress(sys.stderr) as progress:
        name, folder = services(ctx).fetch(model, revision, cache_dir, progress)
    files = {path.relative_to(folder).as_posix(): path.stat().st_size for path in _files(folder)}
    total = sum(files.values())
    if as_json:
        document = {
            "model": name,
            "revision": revision,
            "folder": str(folder),
            "bytes": total,
            "files": [{"name": file, "bytes": num} for file, num in files.items()],
        }
        click.echo(json.dumps(document, indent=2))
    else:
        done = f"{name}: {len(files)} files, {size(total)}"
        click.echo(styled(done, sys.stderr, dim=True), err=True)
        click.echo(folder)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
