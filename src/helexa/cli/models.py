"""`helexa models`."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from helexa.cli.fit import Place, need, places
from helexa.cli.layout import dtype_name
from helexa.cli.options import DEFAULT_MODEL, cache_dir_option, debug_option, json_option
from helexa.cli.services import services
from helexa.cli.terminal import Column, console, count, show_rows, size
from helexa.engine.checkpoint.cache import CachedModel, cache_root, list_cached_models
from helexa.engine.checkpoint.resolve import resolve_model
from helexa.engine.checkpoint.summary import CheckpointSummary, summarise
from helexa.errors import HelexaError

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Row:
    """One model of the list. ``why_not`` is None if it can be run, ``fits`` names the devices."""

    model: str
    revision: str | None
    folder: str
    size_bytes: int
    architecture: str | None
    parameters: int | None
    dtype: str | None
    why_not: str | None
    fits: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """As plain values, with the plain answer to whether it runs."""
        return {
            "model": self.model,
            "revision": self.revision,
            "folder": self.folder,
            "size_bytes": self.size_bytes,
            "architecture": self.architecture,
            "parameters": self.parameters,
            "dtype": self.dtype,
            "supported": self.why_not is None,
            "why_not": self.why_not,
            "fits": list(self.fits),
        }


@click.command()
@cache_dir_option
@json_option
@debug_option
@click.pass_context
def models(ctx: click.Context, cache_dir: Path | None, as_json: bool) -> None:
    """List the models on this machine.

    RUNS says whether helexa can run a model, FITS on which devices its weights and some context
    have room now.
    """
    world = services(ctx)
    root = cache_root(cache_dir, os.environ)
    where = places(world.host_memory(), world.gpus())
    rows = [built_in(where), *(row(model, where) for model in list_cached_models(root))]
    if as_json:
        click.echo(json.dumps([one.as_json() for one in rows], indent=2))
    else:
        _print(rows)
        click.echo(f"downloads are in {root}", err=True)


def built_in(where: Sequence[Place]) -> Row:
    """The model that ships with helexa."""
    folder = resolve_model(DEFAULT_MODEL).path
    stored = sum(file.stat().st_size for file in folder.iterdir())
    return row(CachedModel(DEFAULT_MODEL, "built in", "", folder, stored), where)


def row(model: CachedModel, where: Sequence[Place]) -> Row:
    """One cached model, also if it is damaged or may not be read: then it cannot be run."""
    summary: CheckpointSummary | None = None
    why_not = model.unreadable
    if why_not is None:
        try:
            summary = summarise(model.id, model.folder)
            why_not = summary.why_not
        except HelexaError as error:
            why_not = error.message
    return Row(
        model=model.id,
        revision=model.revision,
        folder=str(model.folder),
        size_bytes=model.bytes,
        architecture=summary.model_type if summary else None,
        parameters=summary.parameters if summary else None,
        dtype="+".join(map(dtype_name, summary.tensors)) if summary else None,
        why_not=why_not,
        fits=_fitting(summary, where) if summary else (),
    )


def _fitting(summary: CheckpointSummary, where: Sequence[Place]) -> tuple[str, ...]:
    """The devices with room for it in its own dtype (16 bit if it has several)."""
    if summary.config is None:
        return ()
    dtype = "float32" if list(summary.tensors) == ["F32"] else "bfloat16"
    fits = need(summary.config, summary, dtype, where).fits
    return tuple(fit.place.device for fit in fits if fit.context_tokens > 0)


COLUMNS = (
    Column("MODEL"),
    Column("REVISION"),
    Column("SIZE", number=True),
    Column("PARAMETERS", number=True),
    *map(Column, ("ARCHITECTURE", "DTYPE", "RUNS", "FITS")),
)


def _print(rows: Sequence[Row]) -> None:
    out = console(sys.stdout)
    cells = [
        (
            one.model,
            one.revision or "",
            size(one.size_bytes),
            "?" if one.parameters is None else count(one.parameters),
            one.architecture or "?",
            one.dtype or "?",
            "yes" if one.why_not is None else "no",
            ", ".join(one.fits) or ("no" if one.why_not is None else "-"),
        )
        for one in rows
    ]
    show_rows(out, COLUMNS, cells)
    for one in rows:
        if one.why_not is not None:
            out.print(f"{one.model}: {one.why_not}", style="dim")
