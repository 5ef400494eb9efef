"""`helexa version`."""

from __future__ import annotations

import json
import platform
from importlib import metadata

import click

from helexa import __version__
from helexa.cli.options import debug_option, json_option

PACKAGES = ("torch", "tokenizers", "safetensors", "huggingface_hub")


def installed(package: str) -> str | None:
    """A package's version from its metadata, without importing it; None if it is not there."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@click.command()
@json_option
@debug_option
def version(as_json: bool) -> None:
    """Show versions of helexa, Python, torch and the platform."""
    found = {
        "helexa": __version__,
        "python": platform.python_version(),
        **{name: installed(name) for name in PACKAGES},
        "platform": platform.platform(),
    }
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for name, value in found.items():
        click.echo(f"{name:<16} {value or 'not installed'}")
