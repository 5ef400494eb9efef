"""`helexa quantize`."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import click

from helexa.cli.options import (
    cache_dir_option,
    debug_option,
    json_option,
    revision_option,
)
from helexa.cli.progress import download_progress
from helexa.cli.terminal import console, size


@click.command()
@click.argument("src")
@click.argument("dst", type=click.Path(path_type=Path))
@click.option(
    "--to", default="q4_k", show_default=True, help="q8_0, q6_k, q5_k, q5_0, q4_k, q4_0, f16 …"
)
@click.option(
    "--force",
    is_flag=True,
    help="Overwrite DST, if it is a GGUF file, or a folder that this command has written.",
)
@revision_option
@cache_dir_option
@json_option
@debug_option
def quantize(
    src: str,
    dst: Path,
    to: str,
    force: bool,
    revision: str,
    cache_dir: Path | None,
    as_json: bool,
) -> None:
    """Write a model in fewer bits, to a GGUF file or a folder.

    SRC has safetensors weights that are not quantised. DST becomes a GGUF file if it ends in .gguf,
    which other programs can run as well; else a model folder in safetensors, which holds all that
    SRC says of itself. Loading DST then takes no more than reading it.
    """
    from helexa.engine.checkpoint.checkpoint import open_checkpoint
    from helexa.quantising import quantise_to_file

    with download_progress(sys.stderr) as progress:
        opener = partial(
            open_checkpoint,
            revision=revision,
            cache_dir=cache_dir,
            progress=progress,
        )
        done = quantise_to_file(src, dst, to, overwrite=force, progress=progress, open_model=opener)
    if as_json:
        document = {
            "path": str(done.path),
            "weight_files": list(done.files),
            "format": done.format,
            "bytes": done.nbytes,
            "source_bytes": done.source_bytes,
            "parameters": done.parameters,
            "bits_per_weight": round(done.bits_per_weight, 3),
            "tensors": done.tensors,
            "seconds": round(done.seconds, 3),
        }
        click.echo(json.dumps(document, indent=2))
        return
    formats = ", ".join(f"{count} in {name}" for name, count in done.tensors.items())
    console(sys.stderr).print(
        f"{size(done.source_bytes)} → {size(done.nbytes)}, {done.bits_per_weight:.2f} bits per "
        f"weight, {done.seconds:.1f} s; tensors: {formats}",
        style="dim",
    )
    click.echo(done.path)
