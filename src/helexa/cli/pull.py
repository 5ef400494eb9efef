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
from helexa.engine.checkpoint.gguf_file import parts_of


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

    What is there already is not fetched again, and what was cut off goes on. Prints the folder, or
    the GGUF file, on stdout; progress goes to stderr.
    """
    with download_progress(sys.stderr) as progress:
        name, path = services(ctx).fetch(model, revision, cache_dir, progress)
    folder = path if path.is_dir() else path.parent
    files = {path.relative_to(folder).as_posix(): path.stat().st_size for path in _files(path)}
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
        click.echo(path)


def _files(model: Path) -> list[Path]:
    """Every file of a folder, or the parts of a GGUF file."""
    if model.is_dir():
        return sorted(path for path in model.rglob("*") if path.is_file())
    return [model.parent / part for part in parts_of(model.name)]
