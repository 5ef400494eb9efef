"""What a daemon says about itself: the bodies of its status routes.

Reading is lenient, so that versions may differ: unknown keys are ignored, missing ones have
defaults. Writing leaves out what the wire leaves out.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from helexa.neuron.ids import ModelSpec


class Body(BaseModel):
    """A frozen JSON object."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    def to_json(self) -> dict[str, Any]:
        """Plain data, ready to be encoded."""
        return self.model_dump(mode="json")


class Sparse(Body):
    """A JSON object without keys that hold nothing."""

    @model_serializer(mode="wrap")
    def leave_out_nothing(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = handler(self)
        return {name: value for name, value in written.items() if value is not None}


class BuildInfo(Body):
    """`/version`."""

    package_version: str
    git_sha: str = "unknown"
    git_sha_long: str | None = None
    git_dirty: bool = False
    build_timestamp: str | None = None
    profile: str = "unknown"
    target: str = "unknown"
    features: tuple[str, ...] = ()
    rustc_version: str | None = None
    candle_version: str | None = None
    python_version: str | None = None
    torch_version: str | None = None
    cuda_version: str | None = None


class Device(Body):
    """A card as it is built; memory in MiB."""

    index: int
    name: str
    vram_total_mb: int
    compute_capability: str


class HostFacts(Body):
    """The machine as it is built."""

    cpu_name: str = "unknown"
    cpu_count: int = 0
    memory_total_mb: int = 0


class DiscoveryResponse(Body):
    """`/discovery`; ``cuda_unavailable_reason`` is on the wire only if there is one."""

    hostname: str
    os: str = "unknown"
    kernel: str = "unknown"
    cuda_version: str | None = None
    driver_version: str | None = None
    devices: tuple[Device, ...] = ()
    harnesses: tuple[str, ...] = ()
    cuda_unavailable_reason: str | None = None
    max_prompt_tokens: int | None = None
    host: HostFacts | None = None

    @model_serializer(mode="wrap")
    def leave_out_no_reason(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = handler(self)
        if self.cuda_unavailable_reason is None:
            del written["cuda_unavailable_reason"]
        return written


class DeviceHealth(Body):
    """A card as it is now; memory in MiB."""

    index: int
    vram_used_mb: int = 0
    vram_free_mb: int = 0
    utilization_pct: int = 0
    temp_c: int = 0


class HostHealth(Body):
    """The machine as it is now."""

    memory_total_mb: int = 0
    memory_available_mb: int = 0
    load_1m: float = 0.0


class ActivationFailure(Body):
    """A model that could not be loaded at the start, and why."""

    model_id: str
    error: str


class ActivationStatus(Body):
    """How far the loading of the default models is; an id is in one place only."""

    state: Literal["pre_warming", "ready"] = "ready"
    pending: tuple[str, ...] = ()
    in_progress: str | None = None
    completed: tuple[str, ...] = ()
    failed: tuple[ActivationFailure, ...] = ()


class ModelLoad(Body):
    """How busy a model is, and whom it has refused since it was loaded; rates per second."""

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


class HealthResponse(Body):
    """`/health`."""

    uptime_secs: int = 0
    devices: tuple[DeviceHealth, ...] = ()
    activation: ActivationStatus = ActivationStatus()
    models: tuple[ModelLoad, ...] = ()
    host: HostHealth | None = None


class ModelLimit(Sparse):
    """How long a request may be, in tokens."""

    context: int
    input: int | None = None
    output: int


class Servable(Sparse):
    """Whether a model can take a request at all."""

    ok: bool
    reason: str | None = None
    detail: str | None = None


class ModelInfo(Sparse):
    """One entry of `/models`; ``vram_used_mb`` is on the wire also where it is not known."""

    id: str
    harness: str = "candle"
    status: str = "loaded"
    devices: tuple[int, ...] = ()
    vram_used_mb: int | None = None
    capabilities: tuple[str, ...] | None = None
    limit: ModelLimit | None = None
    tool_call: bool = False
    reasoning: bool = False
    servable: Servable | None = None
    spec: dict[str, Any] | None = None

    @model_serializer(mode="wrap")
    def leave_out_nothing(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = handler(self)
        if not self.capabilities:
            written["capabilities"] = None
        kept = {name: value for name, value in written.items() if value is not None}
        return {**kept, "vram_used_mb": self.vram_used_mb}

    @classmethod
    def of_spec(cls, spec: ModelSpec, **values: Any) -> ModelInfo:
        """The entry of a model that was loaded as ``spec`` says."""
        return cls(id=spec.model_id, harness=spec.harness, spec=spec.to_json(), **values)
