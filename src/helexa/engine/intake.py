"""From a request to a sequence: what is asked is checked before anything is spent on it."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

from helexa.engine.config import EngineConfig
from helexa.engine.masks import MaskFactory, TokenMask
from helexa.engine.memory import MIB
from helexa.engine.outputs import EngineFacts, Request
from helexa.engine.params import GenerationDefaults, SamplingParams, resolve
from helexa.engine.sequence import TOKEN_TYPE, Sequence
from helexa.errors import (
    CapacityError,
    InvalidRequest,
    PromptTooLong,
    UnsupportedGrammar,
    VisionUnsupported,
)


@dataclass(frozen=True, slots=True)
class CoreSpec:
    """What is fixed about a loaded model: its vocabulary, its limits and its pool of pages.

    ``longest_tokens`` is the longest sequence of the model, ``block_bytes`` the size of one page
    over all layers, ``end_token_ids`` what ends an answer. Sequences may hold ``budget_blocks`` of
    the ``num_blocks`` together. A recurrent model has ``state_bytes`` per sequence, and room for
    ``snapshots`` of them; prompts that begin alike part after one of ``header_ids``.
    """

    vocab_size: int
    longest_tokens: int
    num_blocks: int
    budget_blocks: int
    block_bytes: int
    defaults: GenerationDefaults
    end_token_ids: frozenset[int]
    facts: EngineFacts
    state_bytes: int = 0
    snapshots: int = 0
    header_ids: frozenset[int] = frozenset()


class Intake:
    """Checks requests against a model's limits. Every refusal is a request fault."""

    def __init__(
        self, spec: CoreSpec, config: EngineConfig, masks: MaskFactory | None = None
    ) -> None:
        self.spec = spec
        self._masks = masks
        self.context_tokens = min(spec.longest_tokens, config.max_context or spec.longest_tokens)
        self.capacity_tokens = spec.budget_blocks * config.block_size
        self._block_size = config.block_size

    def prepare(self, request: Request) -> None:
        """Have the grammar of a request compiled; safe on any thread. Raises UnsupportedGrammar."""
        if request.grammar is not None and self._masks is not None:
            self._masks.prepare(request.grammar)

    def sequence(self, id: int, request: Request) -> Sequence:
        """A sequence that is ready to be queued.

        Raises InvalidRequest (code ``empty_prompt`` for no tokens), PromptTooLong, CapacityError,
        UnsupportedGrammar.
        """
        prompt_tokens = len(request.token_ids)
        if not prompt_tokens:
            raise InvalidRequest(
                "the prompt has no tokens", param="prompt", code="empty_prompt", hint="send some"
            )
        if request.images:
            raise VisionUnsupported(
                "this model cannot see images", param="images", hint="send text alone"
            )
        self._require_known("prompt", request.token_ids)
        if request.generated:
            self._require_known("generated", request.generated)
        self._require_room(prompt_tokens, request.cap)
        params = resolve(request.params, self.spec.defaults, self.spec.vocab_size)
        room = min(self.context_tokens, self.capacity_tokens) - prompt_tokens
        seq = Sequence.of(
            id,
            request.token_ids,
            request.generated,
            params,
            max_new=min(params.max_tokens, room),
            ends=self._ends(params),
        )
        if self.spec.snapshots:
            seq.cuts = stable_cuts(request.token_ids, self.spec.header_ids)
        seq.mask = self._mask(request, seq)
        return seq

    def _mask(self, request: Request, seq: Sequence) -> TokenMask | None:
        """What constrains the answer, at the point that the tokens generated so far have reached.

        Those were read once already, so reading them again is the state an earlier run left.
        """
        if request.grammar is None:
            return None
        if self._masks is None:
            raise UnsupportedGrammar("this engine was built without a grammar library")
        mask = self._masks.start(request.grammar, request.token_ids, seq.ends, seq.max_new)
        for token_id in request.generated:
            mask.accept(token_id)
        return mask

    def _require_known(self, name: str, ids: tuple[int, ...]) -> None:
        try:
            whole = array(TOKEN_TYPE, ids)
            wrong = [id for id in (min(whole), max(whole)) if not 0 <= id < self.spec.vocab_size]
        except OverflowError:
            wrong = [id for id in ids if not 0 <= id < self.spec.vocab_size]
        except TypeError:
            raise InvalidRequest(f"{name} must be token ids, whole numbers", param=name) from None
        if wrong:
            raise InvalidRequest(
                f"{name} has the token id {wrong[0]}, "
                f"the vocabulary is 0 … {self.spec.vocab_size - 1}",
                param=name,
                hint="take ids from this model's tokenizer",
            )

    def _require_room(self, prompt_tokens: int, cap: int | None) -> None:
        """At least one token must fit behind the prompt, in the context and in the pool."""
        most = self.context_tokens - 1
        if cap is not None:
            most = min(most, cap)
        if prompt_tokens > most:
            hint = "shorten the prompt"
            if most == self.context_tokens - 1 < self.spec.longest_tokens - 1:
                hint += ", or load the model with a larger max_context"
            raise PromptTooLong(prompt_tokens, most, hint=hint)
        if prompt_tokens >= self.capacity_tokens:
            blocks = prompt_tokens // self._block_size + 1
            required_mb = -(-blocks * self.spec.block_bytes // MIB)
            budget_mb = self.spec.budget_blocks * self.spec.block_bytes // MIB
            raise CapacityError(
                f"the prompt has {prompt_tokens} tokens, the KV cache holds {self.capacity_tokens}",
                required_mb=required_mb,
                budget_mb=budget_mb,
                hint="shorten the prompt, or load the model with a larger kv_memory_mb",
            )

    def _ends(self, params: SamplingParams) -> frozenset[int]:
        asked = frozenset(params.stop_token_ids)
        return asked if params.ignore_eos else asked | self.spec.end_token_ids


def stable_cuts(prompt: tuple[int, ...], header_ids: frozenset[int]) -> tuple[int, ...]:
    """Where prompts that go on from this one, or begin as it does, will still be equal to it.

    That is behind the token that opens its last message, since the text after that may be cut into
    other tokens once something follows, and behind the one that opens its second, for other
    conversations under the same instructions.
    """
    headers = [at + 1 for at, token in enumerate(prompt) if token in header_ids]
    known = {*headers[1:2], *headers[-1:]}
    return tuple(sorted(cut for cut in known if cut < len(prompt)))
