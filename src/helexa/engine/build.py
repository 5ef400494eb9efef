"""From a checkpoint to a core that is ready to serve: model, memory, sampler."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch

from helexa.engine.allocation import refusals_as_memory_errors
from helexa.engine.cache.kv import KVCache
from helexa.engine.checkpoint.checkpoint import Checkpoint, open_checkpoint
from helexa.engine.checkpoint.files import Progress
from helexa.engine.config import EngineConfig
from helexa.engine.core import EngineCore
from helexa.engine.end_tokens import end_token_ids, header_token_ids
from helexa.engine.graphs import decode_graphs
from helexa.engine.hardware import host_memory
from helexa.engine.intake import CoreSpec
from helexa.engine.keeping import reuses
from helexa.engine.loading import load_model
from helexa.engine.masks import MaskFactory
from helexa.engine.memory import (
    HOST_SHARE,
    MIB,
    PoolSize,
    host_kv_ceiling_mb,
    kv_budget_mb,
    kv_ceiling_mb,
    modest_prefix_cache_mb,
    pool_size,
)
from helexa.engine.models.model import Model
from helexa.engine.outputs import EngineFacts
from helexa.engine.params import GenerationDefaults
from helexa.engine.runner import Runner
from helexa.engine.sampling import Sampler
from helexa.errors import CapacityError
from helexa.heap import keep_working_memory


def build_core(
    model: str | Path | Checkpoint,
    config: EngineConfig,
    *,
    progress: Progress | None = None,
    masks: MaskFactory | None = None,
) -> EngineCore:
    """Load a model, given open or by name, and claim the memory it serves with.

    ``masks`` serves requests with a grammar; without it they are refused.

    On a CPU, the process keeps working memory from now on (see `heap.keep_working_memory`).
    Raises LoadError for the checkpoint, InvalidRequest for a setting, CapacityError if there is no
    room for the KV cache.
    """
    if isinstance(model, str | Path):
        checkpoint = open_checkpoint(model, progress=progress)
        try:
            return build_core(checkpoint, config, progress=progress, masks=masks)
        finally:
            checkpoint.close()
    loaded = load_model(
        model,
        device=config.device,
        dtype=config.dtype,
        quant=config.quant,
        compile=config.compile,
        disabled=config.disabled,
        progress=progress,
    )
    if loaded.numerics.device.type == "cpu":
        keep_working_memory()
    defaults = GenerationDefaults.from_json(model.generation_config)
    size = plan_pool(loaded, config)
    cache = claim(loaded, size, config)
    spec = describe(loaded, size, config, defaults, end_token_ids(model, defaults))
    if size.snapshots:
        spec = replace(spec, header_ids=header_token_ids(model))
    runner = Runner(loaded, cache, graphs=decode_graphs(loaded, cache))
    sampler = Sampler(spec.vocab_size, kernels=loaded.numerics.fused_ops)
    return EngineCore(runner, sampler, spec, config, masks=masks)


def plan_pool(model: Model, config: EngineConfig) -> PoolSize:
    """How many pages a loaded model gets, from the settings and what memory is left.

    Raises CapacityError if there is not room for a single page, unless the device is dedicated:
    its owner is told by a budget of 0.
    """
    kv, state_bytes = model.kv_bytes_per_token, model.state_bytes
    prefix_cache_mb = config.prefix_cache_mb if reuses(config) else 0
    lengths = (model.config.longest_sequence, config.kv_context_tokens, config.max_context)
    budget_mb = kv_budget_mb(
        kv,
        min(length for length in lengths if length is not None),
        max_batch=config.max_batch,
        ceiling_mb=_ceiling_mb(model, prefix_cache_mb, config),
        explicit_mb=config.kv_memory_mb,
    )
    if not config.dedicated and budget_mb * MIB < kv * config.block_size:
        raise CapacityError(
            f"the KV cache gets {budget_mb} MiB, not enough for one block of {config.block_size} "
            "tokens",
            required_mb=math.ceil(kv * config.block_size / MIB),
            budget_mb=budget_mb,
            hint="free memory, lower block_size or prefix_cache_mb, or take a smaller model",
        )
    if not config.dedicated:
        prefix_cache_mb = modest_prefix_cache_mb(prefix_cache_mb, budget_mb)
    return pool_size(
        kv,
        config.block_size,
        budget_mb=budget_mb,
        prefix_cache_mb=prefix_cache_mb,
        max_batch=config.max_batch,
        state_bytes=state_bytes,
        max_snapshots=config.max_entries,
    )


def claim(model: Model, size: PoolSize, config: EngineConfig) -> KVCache:
    """The memory of the pool, and of the states. Raises CapacityError if the device refuses it."""
    states = config.max_batch + size.snapshots + config.spare_states
    try:
        with refusals_as_memory_errors():
            return model.new_cache(size.num_blocks, config.block_size, states=states)
    except (torch.OutOfMemoryError, MemoryError) as error:
        pages = size.num_blocks * config.block_size * model.kv_bytes_per_token
        wanted_mb = (pages + states * model.state_bytes) // MIB
        raise CapacityError(
            f"the device refused {wanted_mb} MiB for the KV cache",
            required_mb=wanted_mb,
            budget_mb=0,
            hint="set kv_memory_mb, prefix_cache_mb or max_batch to less",
        ) from error


def describe(
    model: Model,
    size: PoolSize,
    config: EngineConfig,
    defaults: GenerationDefaults,
    ends: frozenset[int],
) -> CoreSpec:
    """What a core needs to know about its model."""
    kv = model.kv_bytes_per_token
    capacity = size.budget_blocks * config.block_size
    longest = model.config.longest_sequence
    facts = EngineFacts(
        device=str(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
        parameters=model.num_parameters,
        weight_mb=model.nbytes / MIB,
        kv_bytes_per_token=kv,
        kv_capacity_tokens=capacity,
        max_context=min(longest, config.max_context or longest, capacity),
        end_token_ids=tuple(sorted(ends)),
        kv_budget_mb=size.budget_mb,
        pool_mb=size.num_blocks * config.block_size * kv / MIB,
    )
    return CoreSpec(
        vocab_size=model.config.vocab_size,
        longest_tokens=longest,
        num_blocks=size.num_blocks,
        budget_blocks=size.budget_blocks,
        block_bytes=kv * config.block_size,
        defaults=defaults,
        end_token_ids=ends,
        facts=facts,
        state_bytes=model.state_bytes,
        snapshots=size.snapshots,
    )


def _ceiling_mb(model: Model, prefix_cache_mb: int, config: EngineConfig) -> int:
    """The most the KV cache may take of what is free on the device of a loaded model.

    The states of running sequences and of a draft come first. Of host memory a quarter counts as
    free, unless the size was asked for or it is dedicated.
    """
    reserves = {
        "prefix_cache_mb": prefix_cache_mb,
        "headroom_mb": config.headroom_mb,
        "floor_mb": config.floor_mb,
    }
    states_mb = (config.max_batch + config.spare_states) * model.state_bytes // MIB
    if model.device.type == "cuda":
        torch.cuda.empty_cache()
        free_mb = torch.cuda.mem_get_info(model.device)[0] // MIB
        return kv_ceiling_mb(free_mb - states_mb, **reserves)
    available_mb = host_memory().available_bytes // MIB - states_mb
    if config.dedicated:
        return kv_ceiling_mb(available_mb, **reserves)
    share = HOST_SHARE if config.kv_memory_mb is None else 1
    return host_kv_ceiling_mb(available_mb, share=share, **reserves)
