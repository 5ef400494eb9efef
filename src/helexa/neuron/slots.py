"""One loaded model: its child process, its door, and what it may be asked."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from helexa.engine.config import EngineConfig
from helexa.engine.memory import MIB, Limit, kv_reservation_mb
from helexa.engine.process.children import Nursery
from helexa.engine.process.host import Deadlines, ProcessHost
from helexa.engine.process.messages import Build
from helexa.errors import CapacityError
from helexa.neuron.admission import Admission, Permit
from helexa.neuron.config import NeuronConfig
from helexa.neuron.fetching import LoadWatch, fetch
from helexa.neuron.ids import ModelSpec
from helexa.neuron.limits import (
    Limits,
    Shape,
    load_refusal,
    servable,
    shortened,
    still_free,
    validate,
)
from helexa.neuron.listing import Contents
from helexa.neuron.metrics import ModelState
from helexa.neuron.recovery import Policy, RecoveringHost, State
from helexa.neuron.runtime import Runtime
from helexa.neuron.sources import Sources
from helexa.opening import Source, open_model
from helexa.protocol.control import ModelInfo, ModelLoad
from helexa.refusals import ModelRecovering

if TYPE_CHECKING:
    from helexa.engine.checkpoint.checkpoint import Checkpoint
    from helexa.engine.checkpoint.files import Progress
    from helexa.loaded import Job, LoadedModel
    from helexa.loaded import ModelInfo as LoadedInfo
    from helexa.text.grammar.factory import GrammarFactory

WireStatus = Literal["loaded", "recovering", "poisoned"]
MIN_RETRY_S, MAX_RETRY_S = 2, 60


@dataclass(slots=True, eq=False)
class Slot:
    """A model that was loaded and has not been unloaded.

    ``state`` is its host's as the event loop has been told of it by `changed`; ``permits`` are
    those of the requests that are being answered.
    """

    spec: ModelSpec
    devices: tuple[int, ...]
    model: LoadedModel
    host: RecoveringHost
    door: Admission
    limits: Limits
    shape: Shape
    kv_budget_mb: int
    created_s: int = field(default_factory=lambda: int(time.time()))
    state: State = "loaded"
    permits: set[Permit] = field(default_factory=set)
    free_mb: int = 0

    @property
    def id(self) -> str:
        """The name it was loaded by."""
        return self.spec.model_id

    @property
    def wire_status(self) -> WireStatus:
        """What the list of models says of its state."""
        state = self.state
        return state if state == "loaded" or state == "poisoned" else "recovering"

    def changed(self, state: State) -> None:
        """Take note of what became of the host, in the order in which it did.

        While there is no model nobody is admitted; one that is back has a new door, through which
        the requests that go on have come already. Its memory is what its process has found.
        """
        before, self.state = self.state, state
        if state == "recovering" or state == "poisoned":
            self.door.close(self.unavailable)
        elif state == "loaded" and before != "loaded":
            self._take_facts()
            self.door = self.door.renewed(self.kv_budget_mb)
            for permit in self.permits:
                permit.move(self.door)

    def _take_facts(self) -> None:
        """Take over what the present process has of memory: others may have taken some since."""
        facts = self.host.facts
        if facts is None:
            return
        info = replace(
            self.model.info,
            max_context=facts.max_context,
            kv_capacity_tokens=facts.kv_capacity_tokens,
            kv_bytes_per_token=facts.kv_bytes_per_token,
            kv_budget_mb=facts.kv_budget_mb,
            pool_mb=facts.pool_mb,
            weight_mb=facts.weight_mb,
        )
        self.model.info = info
        self.kv_budget_mb = info.kv_budget_mb
        self.shape = shape_of(info)

    @asynccontextmanager
    async def seat(self, principal: str | None, kv_mb: int) -> AsyncIterator[Permit]:
        """Wait for a permit; at the latest the end of the block releases it. Raises as `Admission`.

        It goes along to the door of a model that was lost and came back.
        """
        permit = await self.door.acquire(principal, kv_mb)
        self.permits.add(permit)
        try:
            yield permit
        finally:
            permit.release()
            self.permits.discard(permit)

    def limit(self) -> Limit | None:
        """How long requests may be, at the speed that the model reads prompts just now.

        None where the configuration derives no limit.
        """
        speed = self.model.status().tok_s_prefill
        return self.limits.derive_for_budget(self.shape, self.kv_budget_mb, speed)

    def context_tokens(self) -> int:
        """The longest sequence that a request may become."""
        return self.limits.context_tokens(self.shape, self.limit())

    def check(self, job: Job, card_free_mb: int) -> tuple[Job, int]:
        """Check a prompt against the limits: the job as it may run, and the MiB of KV cache for it.

        The answer is cut to what was paid for: both go by one limit, which moves with the speed.
        ``card_free_mb`` is what the last sample found free on the fullest of its cards, 0 if that
        is not known. Raises InvalidRequest, PromptTooLong, LowMemory.
        """
        length, limit = len(job.prompt_ids), self.limit()
        self.free_mb = still_free(self.free_mb, self._usable_mb(card_free_mb))
        validate(
            length,
            cap_tokens=self.limits.prompt_cap(self.shape, limit),
            free_mb=self.free_mb,
            floor_mb=self.limits.rules.floor_mb,
        )
        room_tokens = max(0, self.limits.context_tokens(self.shape, limit) - length)
        job = replace(job, params=shortened(job.params, room_tokens))
        return job, kv_reservation_mb(self.shape.kv, length, job.params.max_tokens)

    def _usable_mb(self, card_free_mb: int) -> int:
        """What a step may still take of a card: what is free, and what its allocator holds unused.

        Host memory belongs to everyone: what is free of it says nothing about one model.
        """
        if not card_free_mb or not self.model.info.device.startswith("cuda"):
            return 0
        return card_free_mb + int(self.model.status().unused_mb)

    def unavailable(self) -> ModelRecovering:
        """What a request is told while there is no child."""
        host = self.host
        if host.state == "poisoned":
            return ModelRecovering(self.id, max(1, round(host.seconds_until_retry())))
        gone_s = time.monotonic() - host.recovering_since_s
        left_s = round(host.load_s - gone_s)
        return ModelRecovering(self.id, min(MAX_RETRY_S, max(MIN_RETRY_S, left_s)))

    @property
    def vram_used_mb(self) -> int:
        """MiB of device memory that it holds: weights and cache, all of which a load claims."""
        if self.state == "poisoned" and not self.host.stuck:  # it has no process
            return 0
        return round(self.model.info.weight_mb + self.model.info.pool_mb)

    def load_report(self) -> ModelLoad:
        status = self.model.status()
        return self.door.report(status.tok_s_prefill, status.tok_s_decode)

    def model_info(self) -> ModelInfo:
        """Its entry in the list of models."""
        info, ready = self.model.info, self.state == "loaded"
        return ModelInfo(
            id=self.id,
            status=self.wire_status,
            devices=self.devices,
            vram_used_mb=self.vram_used_mb,
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
            spec=self.spec.to_json(),
        )

    def model_state(self) -> ModelState:
        """What the metrics say of it."""
        status = self.model.status()
        return ModelState(
            id=self.id,
            status=self.wire_status,
            vram_used_mb=self.vram_used_mb,
            load=self.load_report() if self.state == "loaded" else None,
            prefix_bytes=round(status.cached_mb * MIB),
            prefix_lookups=status.prefix.lookups,
            prefix_hits=status.prefix.hits,
            drafted=status.drafts.drafted,
            drafts_accepted=status.drafts.accepted,
            losses=dict(self.host.recoveries),
        )


def shape_of(info: LoadedInfo) -> Shape:
    """What limits are derived from."""
    return Shape(kv=info.kv_bytes_per_token, longest_tokens=info.longest_tokens)


@dataclass(frozen=True, slots=True)
class Loader:
    """What every load of a daemon has in common."""

    config: NeuronConfig
    runtime: Runtime
    sources: Sources
    nursery: Nursery
    environ: Mapping[str, str]
    dedicated: bool = True

    def load(
        self,
        spec: ModelSpec,
        devices: tuple[int, ...],
        contents: Contents | None = None,
        *,
        cuda: bool,
        watch: LoadWatch,
        on_change: Callable[[State, str], None] = lambda state, cause: None,
    ) -> Slot:
        """Load a model in a child process. Blocks; raises as `open_model`, or as it is watched.

        ``contents`` is what it consists of, if its source has been asked already.
        """
        hosts: list[RecoveringHost] = []

        def make_host(
            checkpoint: Checkpoint,
            config: EngineConfig,
            report: Progress | None,
            grammars: GrammarFactory,
        ) -> RecoveringHost:
            host = self._host(Build(str(checkpoint.path), config), report, on_change)
            hosts.append(host)
            watch.started(host)
            return host

        engine = self.engine_config(spec, f"cuda:{devices[0]}" if cuda else "cpu")
        id, source = self.sources.find(spec.model_id)
        place = fetch(
            id,
            source,
            spec.revision,
            self.environ,
            watch=watch,
            contents=contents,
            quant=spec.quant,
        )
        origin = Source(place, use_template=self.runtime.use_chat_template)
        try:
            model = open_model(origin, engine, watch.progress, make_host)
        except CapacityError as error:
            raise load_refusal(error, spec.kv_mb) from None
        info = model.info
        section = self.config.engine
        limits = Limits.of(
            section.context_limit,
            floor_mb=self.runtime.floor_mb,
            prompt_cap_tokens=self.runtime.prompt_cap_tokens,
            clamp_tokens=self.runtime.context_clamp_tokens,
        )
        door = Admission(spec.model_id, section.admission, kv_budget_mb=info.kv_budget_mb)
        return Slot(spec, devices, model, hosts[0], door, limits, shape_of(info), info.kv_budget_mb)

    def engine_config(self, spec: ModelSpec, device: str) -> EngineConfig:
        section, context = self.config.engine, self.config.engine.context_limit
        clamp = self.runtime.context_clamp_tokens or section.kv_context_tokens
        floor_mb = self.runtime.floor_mb
        return EngineConfig(
            device=device,
            dtype=section.dtype,
            quant=spec.quant,
            compile=section.compile,
            drafter=section.drafter,
            draft_len=section.draft_len,
            max_batch=max(1, section.admission.max_in_flight),
            kv_memory_mb=spec.kv_mb,
            kv_context_tokens=min(section.kv_context_tokens, clamp),
            headroom_mb=context.activation_headroom_mb,
            floor_mb=context.min_free_floor_mb if floor_mb is None else floor_mb,
            prefill_chunk_tokens=self.runtime.prefill_chunk_tokens,
            prefix_cache=section.prefix_cache.enabled,
            prefix_cache_mb=section.prefix_cache.budget_mb,
            max_entries=section.prefix_cache.max_entries,
            disabled=self.runtime.disabled,
            dedicated=self.dedicated,
        )

    def deadlines(self) -> Deadlines:
        """How long a child may take."""
        return Deadlines(
            step=self.runtime.step_timeout_s,
            load=self.config.engine.load_stall_secs,
            exit=self.runtime.abort_deadline_s,
        )

    def _host(
        self, order: Build, report: Progress | None, on_change: Callable[[State, str], None]
    ) -> RecoveringHost:
        section = self.config.engine
        policy = Policy(
            attempts=max(1, section.recovery_attempts), resume_wait=section.resume_wait_secs
        )
        return RecoveringHost(
            lambda on_loss: ProcessHost(
                order, self.nursery, deadlines=self.deadlines(), report=report, on_loss=on_loss
            ),
            policy,
            on_change=on_change,
        )
