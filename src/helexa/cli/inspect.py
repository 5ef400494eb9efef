"""`helexa inspect`."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from helexa.cli.fit import Need, needs, places
from helexa.cli.layout import DTYPE_NAMES, TensorGroup, by_number, dtype_name, grouped
from helexa.cli.options import (
    DEFAULT_MODEL,
    MODEL_HELP,
    cache_dir_option,
    debug_option,
    json_option,
    revision_option,
)
from helexa.cli.services import services
from helexa.cli.terminal import Column, console, count, show_rows, size
from helexa.engine.checkpoint.gguf_types import READABLE
from helexa.engine.checkpoint.reference import Builtin, HubId, parse_reference
from helexa.engine.checkpoint.summary import CheckpointSummary, inspect_checkpoint
from helexa.engine.memory import SMALL_KV, SMALL_MATRIX
from helexa.errors import PreflightError

if TYPE_CHECKING:
    from rich.console import Console

    from helexa.engine.config import ModelConfig
    from helexa.engine.rope_config import RopeConfig


@dataclass(frozen=True, slots=True)
class Report:
    """What is printed of a model."""

    summary: CheckpointSummary
    tensors: list[TensorGroup]
    needs: list[Need]

    def as_json(self) -> dict[str, Any]:
        """As plain values; sizes in bytes, contexts in tokens."""
        summary = self.summary
        return {
            "model": summary.id,
            "folder": str(summary.folder),
            "file": summary.path.name if summary.path != summary.folder else None,
            "architecture": summary.model_type,
            "supported": summary.supported,
            "why_not": summary.why_not,
            "parameters": summary.parameters,
            "active_parameters": active_parameters(summary),
            "weight_bytes": summary.bytes,
            "bits_per_weight": round(summary.bits_per_weight, 2),
            "weight_files": list(summary.files),
            "stored_dtypes": {dtype_name(name): n for name, n in summary.tensors.items()},
            "config": config_values(summary.config) if summary.config else None,
            "tensors": [
                {**asdict(group), "bits_per_weight": round(group.bits_per_weight, 3)}
                for group in self.tensors
            ],
            "memory": [_need_json(need) for need in self.needs],
        }


@click.command(epilog=MODEL_HELP)
@click.argument("model", default=DEFAULT_MODEL)
@click.option(
    "--tensors", "every", is_flag=True, help="List every tensor, not one line for all layers."
)
@revision_option
@cache_dir_option
@json_option
@debug_option
@click.pass_context
def inspect(
    ctx: click.Context,
    model: str,
    every: bool,
    revision: str,
    cache_dir: Path | None,
    as_json: bool,
) -> None:
    """Show what a model is made of and what it needs here.

    Reads its config and the headers of its weights, not the weights; downloads nothing.
    """
    world = services(ctx)
    summary = _summary(model, revision, cache_dir)
    groups = grouped(
        sorted(summary.infos, key=lambda info: by_number(info.name)), by_layer=not every
    )
    where = places(world.host_memory(), world.gpus())
    sizes = needs(summary.config, summary, where) if summary.config else []
    report = Report(summary, groups, sizes)
    if as_json:
        click.echo(json.dumps(report.as_json(), indent=2, ensure_ascii=False))
    else:
        _print(report, console(sys.stdout))


def _summary(model: str, revision: str, cache_dir: Path | None) -> CheckpointSummary:
    try:
        summary = inspect_checkpoint(model, revision=revision, cache_dir=cache_dir)
        built_in = isinstance(parse_reference(model), Builtin)
        return replace(summary, id=DEFAULT_MODEL) if built_in else summary
    except PreflightError as error:
        if error.kind != "repo_fetch_failed" or not isinstance(parse_reference(model), HubId):
            raise
        raise PreflightError(
            error.kind, error.message, hint=f"`helexa pull {model}` downloads it"
        ) from error


def active_parameters(summary: CheckpointSummary) -> int:
    """Of a model's numbers, how many a token meets; fewer than all with a mixture of experts."""
    config = summary.config
    idle = config.moe.idle_parameters(config.hidden_size) if config and config.moe else 0
    return summary.parameters - idle


def config_values(config: ModelConfig) -> dict[str, Any]:
    """A model's config as plain values, without the file it was read from."""
    return {f.name: plain(getattr(config, f.name)) for f in fields(config) if f.name != "raw"}


def plain(value: Any) -> Any:
    """A field's value in JSON's types, the fields of a nested config by name."""
    if is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, tuple):
        return tuple(map(plain, value))
    return sorted(value) if isinstance(value, frozenset) else value


def _need_json(need: Need) -> dict[str, Any]:
    return {
        "dtype": need.dtype,
        "weight_bytes": need.weight_bytes,
        "kv_bytes_per_token": need.kv_bytes_per_token,
        "state_bytes_per_sequence": need.state_bytes,
        "fits": [
            {
                "device": fit.place.device,
                "name": fit.place.name,
                "free_bytes": fit.place.free_bytes,
                "context_tokens": fit.context_tokens,
            }
            for fit in need.fits
        ],
    }


def _print(report: Report, out: Console) -> None:
    summary = report.summary
    stored = ", ".join(map(dtype_name, summary.tensors))
    out.print(f"{summary.id}  {summary.path}", style="bold")
    active = active_parameters(summary)
    of_them = f" ({count(active)} active)" if active < summary.parameters else ""
    out.print(
        f"{summary.model_type}, {count(summary.parameters)} parameters{of_them}, {stored},"
        f" {summary.bits_per_weight:.3g} bits per weight,"
        f" {size(summary.bytes)} in {len(summary.files)} file(s)"
    )
    if summary.config is None:
        out.print(f"helexa cannot run it: {summary.why_not}", style="red")
    else:
        _print_config(summary.config, out)
    _print_tensors(report.tensors, out)
    if report.needs:
        _print_needs(report.needs, out)
        _print_exceptions(report, out)


def _print_config(config: ModelConfig, out: Console) -> None:
    rows = []
    for name, value in config_values(config).items():
        if name == "rope":
            value = _changed(config.rope)
        elif name == "quantization" and config.quantization is not None:
            value = config.quantization.described
        elif name == "layer_types":
            value = tuple(f"{n} × {kind}" for kind, n in Counter(value).items())
        elif name == "moe" and value:
            value |= {"layers": _ranges(value["layers"])}
        if isinstance(value, dict):
            value = tuple(f"{field} {part}" for field, part in value.items())
        if value not in (None, ()):
            shown = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
            rows.append((name, shown))
    out.print("\nCONFIG", style="bold")
    width = max(len(name) for name, _ in rows)
    out.file.write("".join(f"{name:<{width}}  {value}\n" for name, value in rows))


def _ranges(numbers: Sequence[int]) -> str:
    """Numbers in order, in short: 0-3 5 7."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return " ".join("-".join(map(str, run)) for run in runs)


def _changed(rope: RopeConfig) -> tuple[str, ...]:
    """Type and base of rotary embeddings, and what else is not as it mostly is."""
    return (
        rope.rope_type,
        f"theta {rope.theta:g}",
        *(
            f"{f.name} {getattr(rope, f.name)}"
            for f in fields(rope)
            if f.name not in ("rope_type", "theta") and getattr(rope, f.name) != f.default
        ),
    )


TENSOR_COLUMNS = (
    *map(Column, ("TENSOR", "SHAPE", "DTYPE")),
    Column("BITS", number=True),
    Column("COUNT", number=True),
    Column("SIZE", number=True),
)


def _print_tensors(groups: Sequence[TensorGroup], out: Console) -> None:
    rows = [
        (
            group.name,
            " × ".join(map(str, group.shape)),
            group.dtype,
            f"{group.bits_per_weight:.4g}",
            str(group.count),
            size(group.bytes),
        )
        for group in groups
    ]
    out.print()
    show_rows(out, TENSOR_COLUMNS, rows)


def _print_needs(sizes: Sequence[Need], out: Console) -> None:
    devices = [
        f"CONTEXT ON {fit.place.device} ({size(fit.place.free_bytes)} free)"
        for fit in sizes[0].fits
    ]
    rows = [
        (
            need.dtype,
            size(need.weight_bytes),
            size(need.kv_bytes_per_token),
            *(f"{f.context_tokens} tokens" if f.context_tokens else "no room" for f in need.fits),
        )
        for need in sizes
    ]
    out.print()
    show_rows(out, [Column(n) for n in ("DTYPE", "WEIGHTS", "KV PER TOKEN", *devices)], rows)


def _print_exceptions(report: Report, out: Console) -> None:
    """What the table does not say: states, and small models of which a CPU keeps more."""
    if report.needs[0].state_bytes:
        state = size(report.needs[0].state_bytes)
        out.print(f"Recurrent layers take {state} for each sequence, however long it is.")
    small = sum(
        math.prod(group.shape) * group.count
        for group in report.tensors
        if expanded(group)
        and math.prod(group.shape) < SMALL_MATRIX
        and ".experts." not in group.name  # which count together
    )
    if small > report.summary.parameters / 10:
        out.print("On a CPU, matrices of less than half a million numbers are kept in float32.")
    if any(
        need.dtype == "float32" and need.kv_bytes_per_token <= SMALL_KV for need in report.needs
    ):
        out.print("On a CPU, dtype auto keeps the KV cache of this model in float32.")


def expanded(group: TensorGroup) -> bool:
    """Whether a CPU keeps these in float32 if they are small: matrices, plain or in blocks."""
    known = group.dtype in DTYPE_NAMES.values() or group.dtype in READABLE
    return known and len(group.shape) == 2
