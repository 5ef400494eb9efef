"""Everything an operator can set, with default and meaning: what docs/neuron-config.md says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from helexa.daemon.schema import (
    Kind,
    flag,
    number,
    rows,
    section,
    setting,
    table,
    text,
    whole,
)
from helexa.engine.config import DRAFTERS, DTYPES
from helexa.neuron.ids import HARNESS, ModelSpec

DEFAULT_PATH = "/etc/helexa/neuron.toml"
PORT = Kind("a port from 0 to 65535", lambda value: type(value) is int and 0 <= value <= 65535)


@dataclass(frozen=True, slots=True)
class Harness:
    """An engine to offer."""

    name: str = setting(text(), HARNESS, "only `candle`, the wire name of our engine, exists")


@dataclass(frozen=True, slots=True)
class Http:
    """Limits of the HTTP server."""

    max_body_mb: int = setting(whole(1), 64, "largest request body, in MiB")
    max_header_kb: int = setting(whole(1), 64, "largest request head, in KiB")
    max_connections: int = setting(whole(1), 1024, "open connections; the next gets 503")
    header_timeout_secs: float = setting(
        number(positive=True), 30.0, "a request head must be complete within this time"
    )
    body_timeout_secs: float = setting(
        number(positive=True), 60.0, "a byte of a request body must come within this time"
    )
    idle_timeout_secs: float = setting(
        number(positive=True), 120.0, "an idle connection is closed after this time"
    )
    write_stall_secs: float = setting(
        number(positive=True), 120.0, "a client that reads nothing for this long is dropped"
    )


@dataclass(frozen=True, slots=True)
class SourceConfig:
    """Where models of one scheme come from: exactly one of ``endpoint`` and ``path``."""

    endpoint: str | None = setting(
        text(empty=False), None, "base URL of a registry that speaks the Hugging Face protocol"
    )
    path: str | None = setting(
        text(empty=False), None, "a folder; `org/name` in it is a model folder or a `.gguf` file"
    )
    auth_env: str | None = setting(
        text(), None, "name of the environment variable with the bearer token; empty: none"
    )
    cache_dir: str | None = setting(text(), None, "root of the cache, in the Hugging Face layout")


@dataclass(frozen=True, slots=True)
class PrefixCacheConfig:
    """Prompts, or beginnings of prompts, that need not be computed again."""

    enabled: bool = setting(flag(), True, "keep what prompts have in common")
    budget_mb: int = setting(whole(), 1024, "MiB it may keep while all seats are busy")
    max_entries: int = setting(whole(), 8, "snapshots per model with recurrent state")


@dataclass(frozen=True, slots=True)
class ContextLimitConfig:
    """How the longest request is derived from memory and speed."""

    enabled: bool = setting(flag(), True, "derive the limit; else the static prompt cap holds")
    target_prefill_latency_secs: float = setting(
        number(positive=True), 120.0, "how long the prefill of the longest prompt may take"
    )
    bootstrap_prefill_tok_per_sec: float = setting(
        number(positive=True), 800.0, "prefill speed assumed until one has been measured"
    )
    activation_headroom_mb: int = setting(whole(), 2048, "MiB per card kept free for activations")
    min_free_floor_mb: int = setting(whole(), 1500, "MiB per card below which nothing is admitted")
    output_reserve_tokens: int = setting(
        whole(), 8192, "tokens of the context kept for the answer, at most half of it"
    )


@dataclass(frozen=True, slots=True)
class AdmissionConfig:
    """Who may run and who must wait."""

    max_in_flight: int = setting(
        whole(), 8, "seats: requests of a model that run at the same time, in one batch; 0 is 1"
    )
    max_queue_depth: int = setting(whole(), 8, "how many more may wait for a seat")
    max_wait_secs: int = setting(whole(), 30, "longest wait for a seat; 0: none")
    max_per_principal: int = setting(
        whole(), 2, "requests of one caller, running and queued; 0: no limit"
    )
    anon_max_in_flight: int | None = setting(
        whole(),
        None,
        "seats for callers without principal headers; 0 refuses them",
        default_text="max_in_flight − 1, at least 1",
    )
    anon_max_pending: int | None = setting(
        whole(),
        None,
        "their requests, running and queued",
        default_text="max_in_flight + max_queue_depth − 1, at least 1",
    )
    kv_max_wait_secs: int = setting(whole(), 240, "longest wait for room in the KV cache")


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """Image pipelines."""

    te_device: str = setting(
        text(), "cpu", "where the text encoder runs: `cuda`; anything else means `cpu`"
    )
    te_resident: bool | None = setting(
        flag(), None, "keep the text encoder loaded", default_text="true on the CPU, else false"
    )
    max_dim: int = setting(whole(1), 2048, "longest side of an image, in pixels")

    @property
    def text_encoder_device(self) -> str:
        return "cuda" if self.te_device.lower() == "cuda" else "cpu"

    @property
    def text_encoder_resident(self) -> bool:
        if self.te_resident is None:
            return self.text_encoder_device == "cpu"
        return self.te_resident


@dataclass(frozen=True, slots=True)
class EngineSection:
    """The engine: where models come from, and what they may use. Also `[harness.candle]`."""

    hf_cache: str | None = setting(
        text(), None, "root of the Hugging Face cache, unless `sources.huggingface` is given"
    )
    default_source: str = setting(text(), "huggingface", "scheme of ids without one")
    sources: Mapping[str, SourceConfig] = table(
        SourceConfig, "where models come from, by scheme; `huggingface` is there in any case"
    )
    prefix_cache: PrefixCacheConfig = section(PrefixCacheConfig)
    context_limit: ContextLimitConfig = section(ContextLimitConfig)
    admission: AdmissionConfig = section(AdmissionConfig)
    dtype: str = setting(
        text(", ".join(f"`{name}`" for name in DTYPES), lambda name: name in DTYPES, empty=False),
        "auto",
        "precision of weights that are not quantised, and of the cache",
    )
    compile: bool = setting(
        flag(), False, "compile kernels for this CPU, with its C++ compiler, at load"
    )
    drafter: str | None = setting(
        text("`lookup`", lambda name: name in DRAFTERS, empty=False),
        None,
        "guesses tokens ahead that stood in the text before; answers stay the same",
    )
    draft_len: int = setting(whole(), 4, "tokens guessed at a time, at most; 0: none")
    kv_context_tokens: int = setting(
        whole(1), 131072, "tokens for which each seat's share of the KV cache is sized"
    )
    recovery_attempts: int = setting(
        whole(), 3, "tries to bring a lost model back before it is given up"
    )
    load_stall_secs: float = setting(
        number(positive=True), 600.0, "a load without progress for this long fails"
    )
    resume_wait_secs: float = setting(
        number(), 120.0, "how long an interrupted answer waits for its model; 0: it fails at once"
    )
    image: ImageConfig = section(ImageConfig)


@dataclass(frozen=True, slots=True)
class NeuronConfig:
    """One daemon's configuration."""

    port: int = setting(PORT, 13131, "TCP port; 0 takes a free one, which is logged")
    host: str = setting(
        text(empty=False), "127.0.0.1", "address to listen on; `0.0.0.0` opens it to the network"
    )
    harnesses: tuple[Harness, ...] = rows(
        Harness,
        (Harness(),),
        "engines to offer; `[]` is a host without one",
        default_text='[{name = "candle"}]',
    )
    default_models: tuple[ModelSpec, ...] = rows(
        ModelSpec, (), "models to load at the start, in this order"
    )
    shutdown_drain_secs: float = setting(
        number(), 100.0, "how long running requests may go on at shutdown; 0: no limit"
    )
    auth_env: str | None = setting(
        text(), None, "name of the environment variable with the bearer every request must carry"
    )
    trust_principal_headers: bool = setting(
        flag(), True, "believe the principal headers; else everyone is anonymous"
    )
    report_cpu_device: bool = setting(
        flag(), True, "on a host without GPUs report the CPU as a device"
    )
    http: Http = section(Http)
    engine: EngineSection = section(EngineSection)

    @property
    def harness_names(self) -> tuple[str, ...]:
        """The engines that exist, each once, in the order given."""
        return tuple(dict.fromkeys(h.name for h in self.harnesses if h.name == HARNESS))
