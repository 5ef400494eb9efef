"""The control plane's objects: written by a neuron, read by a gateway, which may be of another age.

Readers fill in what an older writer did not know; null counts as absent, unknown keys are ignored.
Sizes ending in ``_mb`` are MiB.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from helexa.protocol.wire import Wire


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit(Wire):
    """How long a conversation a model takes, in tokens; unknown parts are 0."""

    OMIT = frozenset({"input"})

    context: int = 0
    input: int | None = None
    output: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Servable(Wire):
    """Whether a loaded model can take requests, and if not, why."""

    OMIT = frozenset({"reason", "detail"})

    ok: bool
    reason: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo(Wire):
    """One loaded model as a neuron lists it; ``spec`` is the body that would load it again."""

    OMIT = frozenset({"capabilities", "limit", "servable", "spec"})

    id: str
    harness: str = "candle"
    status: str
    devices: tuple[int, ...] = ()
    vram_used_mb: int | None = None
    capabilities: tuple[str, ...] = ()
    limit: Limit | None = None
    tool_call: bool = False
    reasoning: bool = False
    servable: Servable | None = None
    spec: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLoad(Wire):
    """How busy one model is; counters since it was loaded, rates in tokens per second."""

    id: str
    in_flight: int
    queue_depth: int
    max_in_flight: int = 0
    max_queue_depth: int = 0
    rejected_queue_full: int = 0
    rejected_timeout: int = 0
    rejected_per_principal: int = 0
    anon_in_flight: int = 0
    anon_max_in_flight: int = 0
    rejected_anon_yield: int = 0
    rejected_kv_timeout: int = 0
    rejected_kv_unservable: int = 0
    kv_budget_mb: int = 0
    kv_available_mb: int = 0
    tok_s_prefill: float = 0.0
    tok_s_decode: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedActivation(Wire):
    """A model that could not be loaded at start, and the whole reason."""

    model_id: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationStatus(Wire):
    """How far a neuron is with the models that it loads at start."""

    state: Literal["pre_warming", "ready"] = "ready"
    pending: tuple[str, ...] = ()
    in_progress: str | None = None
    completed: tuple[str, ...] = ()
    failed: tuple[FailedActivation, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceHealth(Wire):
    """One device at its last sample; unknown utilisation and temperature are 0."""

    index: int
    vram_used_mb: int
    vram_free_mb: int
    utilization_pct: float = 0
    temp_c: float = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class HostHealth(Wire):
    """The host's memory, and how many processes want its CPUs (one-minute average)."""

    memory_total_mb: int
    memory_available_mb: int
    load_1m: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthResponse(Wire):
    """The answer to GET /health of a neuron."""

    OMIT = frozenset({"host"})

    uptime_secs: int
    devices: tuple[DeviceHealth, ...] = ()
    activation: ActivationStatus = ActivationStatus()
    models: tuple[ModelLoad, ...] = ()
    host: HostHealth | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceInfo(Wire):
    """One device of a host."""

    index: int
    name: str
    vram_total_mb: int
    compute_capability: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostInfo(Wire):
    """What a host is made of."""

    cpu_name: str
    cpu_count: int
    memory_total_mb: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscoveryResponse(Wire):
    """The answer to GET /discovery: a host and its devices.

    ``max_prompt_tokens`` is the longest prompt taken while nothing better is known, 0: not told.
    """

    OMIT = frozenset({"cuda_unavailable_reason", "host"})

    hostname: str = "unknown"
    os: str = "unknown"
    kernel: str = "unknown"
    cuda_version: str | None = None
    driver_version: str | None = None
    devices: tuple[DeviceInfo, ...] = ()
    harnesses: tuple[str, ...] = ()
    cuda_unavailable_reason: str | None = None
    max_prompt_tokens: int = 0
    host: HostInfo | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildInfo(Wire):
    """The answer to GET /version: what runs here. ``build_timestamp`` as RFC 3339."""

    package_version: str
    git_sha: str = "unknown"
    git_sha_long: str | None = None
    git_dirty: bool = False
    build_timestamp: str | None = None
    profile: str = "release"
    target: str = "unknown"
    features: tuple[str, ...] = ()
    rustc_version: str | None = None
    candle_version: str | None = None
    python_version: str | None = None
    torch_version: str | None = None
    cuda_version: str | None = None
