"""What the options of `serve` about a model mean to the daemon behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from helexa.cli.model_options import LoadOptions, usage_errors

if TYPE_CHECKING:
    from helexa.neuron.config import EngineSection
    from helexa.neuron.discovery import Hardware, Sampler
    from helexa.neuron.ids import ModelSpec

CPU, CUDA = "cpu", "cuda"


def check(load: LoadOptions) -> None:
    """Raises click.BadParameter, naming the option, for what no model could be loaded with."""
    from helexa.engine.config import EngineConfig

    with usage_errors():
        EngineConfig(
            device=load.device,
            dtype=load.dtype,
            drafter=load.drafter,
            max_context=load.max_context,
            kv_memory_mb=load.kv_memory_mb,
        )
    if load.device == "mps":
        raise click.BadParameter("a daemon has auto, cpu, cuda and cuda:N", param_hint="'--device'")


def engine_section(load: LoadOptions, environ: Mapping[str, str]) -> EngineSection:
    """The engine's settings: the command line over the environment. Raises ConfigError."""
    from helexa.neuron.config_layers import engine_of

    said = {
        "compile": load.compile or None,
        "drafter": load.drafter,
        "dtype": None if load.dtype == "auto" else load.dtype,
        "hf_cache": None if load.cache_dir is None else str(load.cache_dir),
    }
    given = {name: value for name, value in said.items() if value is not None}
    return replace(engine_of(environ), **given)  # type: ignore[arg-type]  # of the types that these fields have


def surroundings(load: LoadOptions, environ: Mapping[str, str]) -> dict[str, str]:
    """The environment, with variables that say what options say."""
    said = {
        "HF_HUB_OFFLINE": "1" if load.offline else None,
        "NEURON_MAX_PROMPT_TOKENS": None if load.max_context is None else str(load.max_context),
    }
    return {**environ, **{name: value for name, value in said.items() if value is not None}}


def model_spec(id: str, load: LoadOptions) -> ModelSpec:
    """What the daemon is asked to load."""
    from helexa.neuron.ids import ModelSpec

    kind, _, index = load.device.partition(":")
    return ModelSpec(
        model_id=id,
        quant=load.quant,
        devices=(int(index or 0),) if kind == CUDA else None,
        revision=load.revision,
        kv_mb=load.kv_memory_mb,
    )


def sampler(load: LoadOptions) -> Sampler | None:
    """What tells the daemon of its devices: of none but the processor if that is asked for."""
    from helexa.neuron.discovery import Sampler
    from helexa.neuron.nvml import Cards

    return Sampler(read_cards=Cards) if load.device == CPU else None


def require_card(spec: ModelSpec, hardware: Hardware) -> None:
    """Raises InvalidRequest if a card is asked for where there surely is none."""
    from helexa.errors import InvalidRequest

    cards = hardware.sample.cards
    if spec.devices and cards.known and cards.unavailable is None and not cards.devices:
        raise InvalidRequest(
            "there is no GPU on this machine", param="device", hint="leave --device out"
        )
