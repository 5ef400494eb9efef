"""One loaded model: its child process, its door, and what it may be asked."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from helexa.engine.config import EngineConfig
from helexa.engine.memory import MIB, Limit, kv_reservation_mb
from helexa.engine.process.children import Nursery
from helexa.engine.process.host import Deadlines, ProcessHost
from helexa.engine.process.messages import Build
from helexa.neuron.admission import Admission
from helexa.neuron.config import NeuronConfig
from helexa.neuron.ids import ModelSpec
from helexa.neuron.limits import Limits, Shape, servable, validate
from helexa.neuron.recovery import Policy, RecoveringHost, State
from helexa.neuron.runtime import Runtime
from helexa.neuron.sources import BUILTIN, Sources
from helexa.opening import Source, open_model
from helexa.protocol.control import ModelInfo, ModelLoad
from helexa.protocol.control import ModelSpec as SentSpec
from helexa.refusals import ModelRecovering

if TYPE_CHECKING:
    from helexa.engine.checkpoint.checkpoint import Checkpoint
    from helexa.engine.checkpoint.files import Progress
    from helexa.loaded import Job, LoadedModel
    from helexa.text.grammar.factory import GrammarFactory

WireStatus = Literal["loaded", "recovering", "poisoned"]
MIN_RETRY_S, MAX_RETRY_S = 2, 60


@dataclass(slots=True, eq=False)
class Slot:
    """A model that was loaded and has not been unloaded; its state is its host's."""

    spec: ModelSpec
    devices: tuple[int, ...]
    model: LoadedModel
    host: RecoveringHost
    door: Admission
    limits: Limits
    shape: Shape
    kv_budget_mb: int
    created_s: int = field(default_factory=lambda: int(time.time()))

    @property
    def id(self) -> str:
        """The name it was loaded by."""
        return self.spec.model_id

    @property
    def state(self) -> State:
        return self.host.state

    @property
    def wire_status(self) -> WireStatus:
        """What the list of models says of its state."""
        state = self.host.state
        return state if state == "loaded" or state == "poisoned" else "recovering"

    def limit(self) -> Limit:
        """How long requests may be, at the speed that the model reads prompts just now."""
        speed = self.model.status().tok_s_prefill
        return self.limits.derive_for_budget(self.shape, self.kv_budget_mb, speed)

    def context_tokens(self) -> int:
        """The longest sequence that a request may become."""
        return min(self.limit().context or self.shape.longest_tokens, self.model.info.max_context)

    def check(self, job: Job) -> int:
        """Check a prompt against the limits and say how many MiB of KV cache the request claims.

        Raises InvalidRequest, PromptTooLong.
        """
        length = len(job.prompt_ids)
        validate(
            length,
            cap_tokens=self.limits.prompt_cap(self.shape, self.limit()),
            free_mb=0,
            floor_mb=self.limits.rules.floor_mb,
        )
        room = max(0, self.context_tokens() - length)
        return kv_reservation_mb(self.shape.kv, length, min(job.params.max_tokens, room))

    def unavailable(self) -> ModelRecovering:
        """What a request is told while there is no child."""
        host = self.host
        if host.state == "poisoned":
            return ModelRecovering(self.id, max(1, round(host.seconds_until_retry())))
        gone_s = time.monotonic() - host.recovering_since_s
        left_s = round(host.load_s - gone_s)
        return ModelRecovering(self.id, min(MAX_RETRY_S, max(MIN_RETRY_S, left_s)))

    def load_report(self) -> ModelLoad:
        status = self.model.status()
        return self.door.report(status.tok_s_prefill, status.tok_s_decode)

    def model_info(self) -> ModelInfo:
        """Its entry in the list of models."""
        info, ready = self.model.info, self.host.state == "loaded"
        return ModelInfo(
            id=self.id,
            status=self.wire_status,
            devices=self.devices,
            vram_used_mb=round(info.weight_mb + self.kv_budget_mb),
            capabilities=info.capabilities,
            limit=self.limits.published(self.limit()) if ready else None,
            tool_call=info.tool_markers is not None,
            reasoning=info.reasoning_markers is not None,
            servable=servable(
                self.wire_status,
                detail=self.host.detail,
                kv=self.shape.kv,
                budget_mb=self.kv_budget_mb,
            ),
            spec=SentSpec.model_validate(self.spec.to_json()),
        )


@dataclass(frozen=True, slots=True)
class Loader:
    """What every load of a daemon has in common."""

    config: NeuronConfig
    runtime: Runtime
    sources: Sources
    nursery: Nursery

    def load(
        self,
        spec: ModelSpec,
        devices: tuple[int, ...],
        *,
        cuda: bool,
        progress: Progress | None = None,
        started: Callable[[RecoveringHost], None] = lambda host: None,
        on_change: Callable[[State, str], None] = lambda state, cause: None,
    ) -> Slot:
        """Load a model in a child process. Blocks; raises as `open_model`.

        ``started`` is told of the host before it loads, so that the load can be cancelled.
        """
        hosts: list[RecoveringHost] = []

        def make_host(
            checkpoint: Checkpoint,
            config: EngineConfig,
            report: Progress | None,
            grammars: GrammarFactory,
        ) -> RecoveringHost:
            host = self._host(Build(str(checkpoint.folder), config), report, on_change)
            hosts.append(host)
            started(host)
            return host

        engine = self.engine_config(spec, f"cuda:{devices[0]}" if cuda else "cpu")
        model = open_model(self._source(spec), engine, progress, make_host)
        info = model.info
        section = self.config.engine
        limits = Limits.of(
            section.context_limit,
            section.prefix_cache,
            floor_mb=self.runtime.floor_mb,
            prompt_cap_tokens=self.runtime.prompt_cap_tokens,
            clamp_tokens=self.runtime.context_clamp_tokens,
        )
        budget_mb = info.kv_capacity_tokens * info.kv_bytes_per_token // MIB
        door = Admission(spec.model_id, section.admission, kv_budget_mb=budget_mb)
        shape = Shape(kv=info.kv_bytes_per_token, longest_tokens=info.max_context)
        return Slot(spec, devices, model, hosts[0], door, limits, shape, budget_mb)

    def engine_config(self, spec: ModelSpec, device: str) -> EngineConfig:
        section = self.config.engine
        return EngineConfig(
            device=device,
            quant=spec.quant,
            max_batch=max(1, section.admission.max_in_flight),
            kv_memory_mb=spec.kv_mb,
            kv_context_tokens=section.kv_context_tokens,
            prefill_chunk_tokens=self.runtime.prefill_chunk_tokens,
            prefix_cache=section.prefix_cache.enabled,
            prefix_cache_mb=section.prefix_cache.budget_mb,
            max_entries=section.prefix_cache.max_entries,
            disabled=self.runtime.disabled,
        )

    def _source(self, spec: ModelSpec) -> Source:
        id, source = self.sources.find(spec.model_id)
        if source.scheme == BUILTIN:
            return Source(id.name)
        if source.path is not None:
            return Source(Path(source.path) / id.org / id.name)
        cache = source.cache(os.environ)
        return Source(
            id.repo,
            revision=spec.revision,
            cache_dir=cache,
            token=source.token,
            endpoint=source.endpoint,
        )

    def _host(
        self, order: Build, report: Progress | None, on_change: Callable[[State, str], None]
    ) -> RecoveringHost:
        section, runtime = self.config.engine, self.runtime
        deadlines = Deadlines(
            step=runtime.step_timeout_s,
            load=section.load_stall_secs,
            exit=runtime.abort_deadline_s,
        )
        policy = Policy(
            attempts=max(1, section.recovery_attempts), resume_wait=section.resume_wait_secs
        )
        return RecoveringHost(
            lambda on_loss: ProcessHost(
                order, self.nursery, deadlines=deadlines, report=report, on_loss=on_loss
            ),
            policy,
            on_change=on_change,
        )
