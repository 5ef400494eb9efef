"""Whether a model fits this machine, and how long a context then does: arithmetic on sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from helexa.engine.config import EngineConfig
from helexa.engine.memory import MIB, host_kv_ceiling_mb, kv_ceiling_mb

if TYPE_CHECKING:
    from helexa.engine.checkpoint.summary import CheckpointSummary
    from helexa.engine.config import ModelConfig
    from helexa.engine.hardware import Gpu, HostMemory

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True)
class Place:
    """Memory that a model could live in, in bytes; ``device`` is what ``--device`` takes."""

    device: str
    name: str
    total_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class Fit:
    """How long a sequence may be in one place, in tokens; 0 if the model does not fit there."""

    place: Place
    context_tokens: int


@dataclass(frozen=True, slots=True)
class Need:
    """What a model needs in one dtype, in bytes, and where it fits.

    ``weight_bytes`` are those on a CPU, which has tables for products with 4 bits, and keeps what
    is not quantised of a quantised model in 16 bits; on a GPU they are others.
    ``state_bytes`` is what recurrent layers keep of a sequence, however long it is.
    """

    dtype: str
    weight_bytes: int
    kv_bytes_per_token: int
    state_bytes: int
    fits: tuple[Fit, ...]


def places(host: HostMemory, cards: Sequence[Gpu]) -> tuple[Place, ...]:
    """The CPU's memory and that of each GPU."""
    return (
        Place("cpu", "CPU", host.total_bytes, host.available_bytes),
        *(Place(f"cuda:{g.index}", g.name, g.total_bytes, g.free_bytes) for g in cards),
    )


def needs(config: ModelConfig, summary: CheckpointSummary, where: Sequence[Place]) -> list[Need]:
    """Weights and KV cache of a model in every dtype it can be loaded in."""
    return [need(config, summary, dtype, where) for dtype in DTYPE_BYTES]


def need(
    config: ModelConfig, summary: CheckpointSummary, dtype: str, where: Sequence[Place]
) -> Need:
    """Weights and KV cache of a model in one dtype, in which it keeps what is not quantised."""
    plain = summary.parameters - summary.quantised_parameters
    weights = plain * DTYPE_BYTES[dtype] + summary.quantised_bytes
    halves = DTYPE_BYTES[dtype] == 2
    on_cpu = weights + (summary.table_bytes if halves else -2 * summary.narrow_parameters)
    kv = config.kv_bytes_per_token(DTYPE_BYTES[dtype])
    state = config.state_bytes(4)
    settings = EngineConfig()
    states = (settings.max_batch + settings.spare_states) * state
    fits = []
    for place in where:
        taken = states + (on_cpu if place.device == "cpu" else weights)
        fits.append(Fit(place, context_that_fits(place, taken, kv, config.longest_sequence)))
    return Need(dtype, on_cpu, kv, state, tuple(fits))


def context_that_fits(place: Place, taken_bytes: int, kv: int, longest_tokens: int) -> int:
    """The longest sequence a place has memory for beside weights and states, as the engine shares.

    A larger ``kv_memory_mb`` than the engine would choose can make it longer on the CPU.
    """
    free_mb = (place.free_bytes - taken_bytes) // MIB
    if free_mb <= 0:
        return 0
    ceiling_mb = host_kv_ceiling_mb(free_mb) if place.device == "cpu" else kv_ceiling_mb(free_mb)
    return min(longest_tokens, ceiling_mb * MIB // kv) if kv else longest_tokens
