"""What a load takes from the configuration and the environment."""

from __future__ import annotations

from collections.abc import Mapping

from helexa.engine.config import EngineConfig
from helexa.engine.process.children import Nursery
from helexa.engine.process.host import Deadlines
from helexa.neuron.config import (
    AdmissionConfig,
    ContextLimitConfig,
    EngineSection,
    NeuronConfig,
    PrefixCacheConfig,
)
from helexa.neuron.ids import ModelSpec
from helexa.neuron.runtime import read_runtime
from helexa.neuron.slots import Loader
from helexa.neuron.sources import Sources

SPEC = ModelSpec(model_id="o/n")
FILE = EngineSection(
    prefix_cache=PrefixCacheConfig(enabled=False, budget_mb=7, max_entries=2),
    context_limit=ContextLimitConfig(activation_headroom_mb=11, min_free_floor_mb=12),
    admission=AdmissionConfig(max_in_flight=3),
    dtype="float32",
    compile=True,
    drafter="lookup",
    draft_len=6,
    kv_context_tokens=5000,
    load_stall_secs=6.0,
)


def loader(engine: EngineSection, environ: Mapping[str, str]) -> Loader:
    config = NeuronConfig(engine=engine)
    sources = Sources.of(engine, environ)
    return Loader(config, read_runtime(environ), sources, Nursery(warm=False), environ)


def test_the_file_reaches_the_engine() -> None:
    plain = loader(EngineSection(), {}).engine_config(SPEC, "cpu")
    assert plain == EngineConfig(device="cpu", kv_context_tokens=131072, dedicated=True)
    asked = ModelSpec(model_id="o/n", quant="q4k", kv_mb=9)
    assert loader(FILE, {}).engine_config(asked, "cuda:1") == EngineConfig(
        device="cuda:1",
        dtype="float32",
        quant="q4k",
        max_batch=3,
        kv_memory_mb=9,
        kv_context_tokens=5000,
        headroom_mb=11,
        floor_mb=12,
        prefix_cache=False,
        prefix_cache_mb=7,
        max_entries=2,
        compile=True,
        drafter="lookup",
        draft_len=6,
        dedicated=True,
    )


def test_runtime_variables_reach_the_engine() -> None:
    environ = {
        "NEURON_MAX_PROMPT_TOKENS": "4096",
        "NEURON_MIN_FREE_VRAM_MB": "0",
        "NEURON_PREFILL_CHUNK_TOKENS": "64",
        "NEURON_FLASH_ATTN": "0",
        "NEURON_MOE_FUSED": "false",
        "NEURON_GDN_CHUNKED": "0",
        "NEURON_MROPE": "false",
        "NEURON_BATCHING": "0",
        "HELEXA_DISABLE": "cuda_graphs",
    }
    config = loader(FILE, environ).engine_config(SPEC, "cpu")
    assert (config.kv_context_tokens, config.floor_mb) == (4096, 0)
    assert (config.headroom_mb, config.prefill_chunk_tokens) == (11, 64)
    switched = {"flash_attn", "moe_fused", "gdn_chunked", "mrope", "batching", "cuda_graphs"}
    assert config.disabled == switched


def test_runtime_variables_set_the_deadlines() -> None:
    environ = {"NEURON_TP_STEP_TIMEOUT_S": "2.5", "NEURON_TP_ABORT_DEADLINE_S": "3"}
    assert loader(FILE, environ).deadlines() == Deadlines(step=2.5, load=6.0, exit=3.0)
    assert loader(EngineSection(), {}).deadlines() == Deadlines()
