"""The heart of the engine: requests in, a step at a time, tokens out. Single threaded."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, NoReturn

import torch

from helexa.engine.ahead.when import LookAhead
from helexa.engine.allocation import unused_mb
from helexa.engine.cache.state_pages import StatePages
from helexa.engine.config import EngineConfig
from helexa.engine.drafting.drafter import Drafter
from helexa.engine.drafting.drafts import Drafts
from helexa.engine.drafting.lookup import LookupDrafter
from helexa.engine.execution import Execution, StepRunner, TokenSampler
from helexa.engine.faults import device_failed, own_error, ran_out
from helexa.engine.intake import CoreSpec, Intake
from helexa.engine.keeping import keeper
from helexa.engine.masks import MaskFactory
from helexa.engine.memory import MIB, kv_reservation_mb
from helexa.engine.outputs import (
    CacheReport,
    EngineFacts,
    EngineStatus,
    FinishReason,
    Request,
    StepOutput,
)
from helexa.engine.rates import Rates
from helexa.engine.sampling import Sampled
from helexa.engine.scheduler import Part, Scheduler
from helexa.engine.sequence import Sequence as Row
from helexa.engine.tracebacks import drop_locals
from helexa.errors import DeviceError, EngineClosed, EngineLost, HelexaError, OutOfMemory

OOM_LIMIT: Final = 3


class EngineCore:
    """Generates tokens for many requests at once.

    ``submit`` and ``abort`` at any time, ``step`` while not ``idle``. A request ends with an output
    that has ``finish_reason`` or ``error`` set, or with ``abort``. A fault of the device ends the
    core: ``step`` raises DeviceError, every open request is over, and none is accepted any more.
    Any other exception of a step ends requests of that step, see `_failed`.
    ``clock`` gives seconds; ``masks`` is needed by requests with a grammar; ``drafter`` guesses
    tokens in place of a lookup in what was said so far.
    """

    def __init__(
        self,
        runner: StepRunner,
        sampler: TokenSampler,
        spec: CoreSpec,
        config: EngineConfig,
        clock: Callable[[], float] = time.perf_counter,
        masks: MaskFactory | None = None,
        drafter: Drafter | None = None,
    ) -> None:
        self.spec = spec
        self._execution = Execution(runner, sampler, spec.vocab_size)
        self._clock = clock
        self._intake = Intake(spec, config, masks)
        self._pages = keeper(spec, config)
        self._scheduler = Scheduler(
            self._pages,
            max_batch=1 if "batching" in config.disabled else config.max_batch,
            chunk_tokens=config.prefill_chunk_tokens,
        )
        self._drafts = Drafts(drafter or LookupDrafter(), self._pages, config, clock)
        self._ahead = LookAhead(runner, self._pages, self._drafts)
        self._rates = Rates()
        self._open: dict[int, Row] = {}
        self._ready: list[StepOutput] = []
        self._next_id = 0
        self._steps = 0
        self._step_s = 0.0
        self._ooms = 0  # since a request last came to its end
        self._faulted = False  # whether the last step failed
        self._ended: HelexaError | None = None

    @property
    def facts(self) -> EngineFacts:
        """What is fixed about the model and its memory."""
        return self.spec.facts

    @property
    def idle(self) -> bool:
        """Whether a step would have nothing to do."""
        return not self._open and not self._ready

    def prepare(self, request: Request) -> None:
        """Do ahead what may take long, on any thread: what `submit` needs of it is then at hand.

        Raises UnsupportedGrammar.
        """
        self._intake.prepare(request)

    def submit(self, request: Request) -> int:
        """Queue a request and return its id: how many came before it, refused ones among them.

        Raises InvalidRequest, PromptTooLong, CapacityError or UnsupportedGrammar if it can never
        run as asked, EngineClosed or EngineLost if the core is at its end.
        """
        if self._ended is not None:
            raise self._ended.with_traceback(None)  # not that of the last one who tried
        request_id = self._next_id
        self._next_id += 1
        seq = self._intake.sequence(request_id, request)
        seq.submitted_s = self._clock()
        if reason := _finish_reason(seq):
            self._ready.append(self._last(seq, seq.submitted_s, finish_reason=reason))
            return seq.id
        self._open[seq.id] = seq
        self._scheduler.add(seq)
        return seq.id

    def abort(self, request_id: int, *, completed: bool = False) -> None:
        """Stop a request: it has no further output. Unknown and finished ids are ignored.

        ``completed``: its reader has all it wanted, so it counts as one that came to its end.
        """
        self._ready = [output for output in self._ready if output.id != request_id]
        seq = self._open.get(request_id)
        if seq is not None:
            self._end(seq, self._clock()) if completed else self._drop(seq)

    def step(self) -> list[StepOutput]:
        """Run every running row and a chunk of waiting prompts; what came of it, if anything.

        Raises DeviceError if the device failed; the core is finished then.
        """
        begin = self._clock()
        outputs, self._ready = self._ready, []
        parts = self._scheduler.plan()
        if not parts:
            return outputs
        for part in parts:
            if part.sequence.started_s is None:
                part.sequence.started_s = begin
        try:
            parts = self._drafts.add(parts)
            ahead = self._ahead.rows(parts, alone=len(parts) == len(self._open))
            drawn = self._execution.run(parts, self._pages.take_copies(), ahead)
        except Exception as error:  # the edge to the device
            return outputs + self._failed(parts, error)
        self._faulted = False
        now = self._clock()
        self._drafts.learn(parts, now - begin)
        settled = self._drafts.settle(parts, drawn, self._execution.runner.hidden)
        self._scheduler.commit([part for part, _ in settled])
        outputs += [self._take(part, draws, now) for part, draws in settled if draws]
        self._steps += 1
        self._step_s = self._clock() - begin
        return outputs

    def status(self) -> EngineStatus:
        """The core at this moment."""
        pool, size = self._pages.pool, self.spec.block_bytes / MIB
        return EngineStatus(
            running=len(self._scheduler.running),
            waiting=len(self._scheduler.waiting),
            kv_used_mb=pool.held_count * size,
            kv_budget_mb=float(self.facts.kv_budget_mb),
            cached_mb=pool.idle_count * size,
            free_mb=self._pages.available * size,
            unused_mb=unused_mb(self.facts.device),
            tok_s_prefill=self._rates.prefill.tokens_per_s,
            tok_s_decode=self._rates.decode.tokens_per_s,
            kv_capacity_tokens=self._intake.capacity_tokens,
            prefix=self._pages.stats(),
            steps=self._steps,
            last_step_ms=self._step_s * 1e3,
            overhead_ms=(self._step_s - self._execution.model_s) * 1e3,
            preemptions=self._scheduler.preemptions,
            drafts=self._drafts.counts,
        )

    def close(self) -> None:
        """End the core: every open request is dropped, none is accepted any more."""
        for seq in list(self._open.values()):
            self._drop(seq)
        self._ready = []
        self._ended = self._ended or EngineClosed("the model was closed", hint="load it again")

    def _take(self, counted: Part, drawn: list[Sampled], now: float) -> StepOutput:
        """Add sampled tokens to their sequence, or end it; all but the last were drafted."""
        seq = counted.sequence
        if drawn[0].error is not None:
            self._drop(seq, forget=True)
            return self._last(seq, now, error=drawn[0].error)
        cache = self._prefilled(seq, now) if seq.first_token_s is None else None
        taken = 0
        reason: FinishReason | None = None
        fault: HelexaError | None = None
        for index, sampled in enumerate(drawn):
            if index and counted.length:
                self._scheduler.commit_drafted(seq)
            if sampled.token_id in seq.ends:
                reason = "stop"
                break
            try:
                seq.append(sampled.token_id)
            except BaseException as error:  # whatever a library makes of it: no other row's
                fault = own_error(error)
                break
            taken += 1
            if reason := _finish_reason(seq):
                break
        if fault is not None:
            self._drop(seq)
            return self._last(seq, now, error=fault, cache=cache)
        if reason is not None:
            self._end(seq, now)
        return StepOutput(
            seq.id,
            tuple([sampled.token_id for sampled in drawn[:taken]]),
            tuple([s.logprob for s in drawn[:taken] if s.logprob is not None]),
            reason,
            cache=cache,
            timing=seq.timing(now),
            completion_tokens=len(seq.generated),
            drafts=seq.drafts,
        )

    def _prefilled(self, seq: Row, now: float) -> CacheReport:
        """A sequence has its first token: count its speed, say what the cache did for it."""
        seq.first_token_s = now
        if seq.started_s is not None and not seq.first_index:
            computed = seq.prompt_tokens - seq.cached_tokens
            self._rates.add_prefill(computed, now - seq.started_s)
        return self._pages.report(seq)

    def _end(self, seq: Row, now: float) -> None:
        """A sequence is complete: count its speed, give its pages back."""
        if seq.first_token_s is not None:
            here = len(seq.generated) - seq.first_index
            self._rates.add_decode(here, now - seq.first_token_s)
        self._ooms = 0
        self._drop(seq)

    def _drop(self, seq: Row, *, forget: bool = False) -> None:
        del self._open[seq.id]
        self._execution.drop(seq)
        self._drafts.drop(seq)
        self._scheduler.remove(seq, forget=forget)

    def _last(
        self,
        seq: Row,
        now: float,
        *,
        finish_reason: FinishReason | None = None,
        error: HelexaError | None = None,
        cache: CacheReport | None = None,
    ) -> StepOutput:
        """The last output of a sequence that ends without another token."""
        return StepOutput(
            seq.id,
            finish_reason=finish_reason,
            error=error,
            cache=cache,
            timing=seq.timing(now),
            completion_tokens=len(seq.generated),
            drafts=seq.drafts,
        )

    def _failed(self, parts: list[Part], cause: BaseException) -> list[StepOutput]:
        """A step has failed: end what it was probably about, or the core if that was the device.

        Nothing has been committed then, so the rest is run again from where it was: keys and values
        are written beyond what counts as computed, and masks are told only of tokens that were
        drawn. Only recurrent states may have gone on: such rows start over. A lack of memory is due
        to the step's prompts, or in a step without any to its youngest row; the third without a
        request that came to its end between them is the device's. Anything else is due to the
        prompts too, and when it comes again to all of the step.
        """
        prompts = [part.sequence for part in parts if part.sequence.prefilling]
        if isinstance(self._pages, StatePages):
            self._pages.distrust()
            self._scheduler.restart()
        if ran_out(cause):
            self._ooms += 1
            if self._ooms >= OOM_LIMIT:
                self._finish(cause)
            return self._no_room(prompts or [parts[-1].sequence], cause)
        if device_failed(cause, self.facts.device):
            self._finish(cause)
        blamed = prompts if prompts and not self._faulted else [part.sequence for part in parts]
        self._faulted = True
        error, now = own_error(cause), self._clock()
        drop_locals(cause)
        for seq in blamed:
            self._drop(seq, forget=True)
        return [self._last(seq, now, error=error) for seq in blamed]

    def _no_room(self, blamed: list[Row], cause: BaseException) -> list[StepOutput]:
        """End requests for which the device had no memory."""
        drop_locals(cause)  # they hold what the step had claimed so far
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        now = self._clock()
        outputs = []
        for seq in blamed:
            kv = self.facts.kv_bytes_per_token
            error = OutOfMemory(
                "the device ran out of memory in a step of this request",
                required_mb=kv_reservation_mb(kv, seq.prompt_tokens, seq.max_new),
                free_mb=int(self.status().free_mb),
                hint="send it again, or load the model with a smaller prefill_chunk_tokens",
            )
            error.__cause__ = cause
            self._drop(seq)
            outputs.append(self._last(seq, now, error=error))
        return outputs

    def _finish(self, cause: BaseException) -> NoReturn:
        """The device has failed: end the core and raise why."""
        fault = cause
        if not isinstance(cause, DeviceError):
            fault = DeviceError(
                f"the device failed in a step ({type(cause).__name__}: {cause})",
                hint="load the model again",
                out_of_memory=ran_out(cause),
            )
        self._ended = EngineLost("the engine ended on a device fault", hint="load the model again")
        self.close()
        raise fault from cause if fault is not cause else None


def _finish_reason(seq: Row) -> FinishReason | None:
    """Why a sequence is at its end, if it is: nothing may follow, or it has its length.

    What is complete at its last token has stopped by itself, unless it was closed for its length.
    """
    if seq.mask is not None and seq.mask.is_terminated:
        return "length" if seq.mask.is_cut else "stop"
    return "length" if len(seq.generated) >= seq.max_new else None
