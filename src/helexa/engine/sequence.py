"""One request while it is generated: its tokens, its pages and how far it has come."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from helexa.engine.cache.history import Nearest
from helexa.engine.drafting.pace import Pace
from helexa.engine.masks import TokenMask
from helexa.engine.outputs import DraftCounts, Timing
from helexa.engine.params import SamplingParams

TOKEN_TYPE = "i"  # 4 bytes: array slices turn into the keys of the prefix tree


@dataclass(slots=True, eq=False)
class Sequence:
    """A prompt and what was generated for it so far.

    With ``prompt_tokens``, ``generated`` and ``params`` (seed included) an answer can be continued
    anywhere: the next draw depends on the seed and ``len(generated)`` alone; ``first_index`` is
    that of the first token drawn here. ``tokens`` is prompt and generated tokens together; keys and
    values of the first ``computed`` are in the cache, in ``blocks``, of which the first ``indexed``
    pages are the prefix tree's. A recurrent model keeps its ``state`` in that slot, and others may
    go on from where it stood after the first ``cuts`` tokens. ``runs`` counts the times it was
    given pages: once, and once more after each preemption. ``mask`` says what may come next, None
    that anything may; it knows nothing of pages, so a preemption leaves it as it is. ``fork`` is
    the slot of a copy of the state, if the draft of this step is tried on one; ``pace`` and
    ``drafts`` say what came of drafts so far, ``unwatched`` steps later than ``pace`` none was
    looked for.
    """

    id: int
    params: SamplingParams
    tokens: array[int]
    prompt_tokens: int
    generated: list[int]
    max_new: int
    ends: frozenset[int]
    first_index: int = 0
    cacheable: bool = True
    cuts: tuple[int, ...] = ()
    mask: TokenMask | None = None
    submitted_s: float = 0.0

    blocks: list[int] = field(default_factory=list)
    computed: int = 0
    indexed: int = 0
    state: int = 0
    fork: int | None = None
    prefilling: bool = True
    runs: int = 0
    cached_tokens: int = 0
    nearest: Nearest | None = None
    started_s: float | None = None
    first_token_s: float | None = None
    pace: Pace = field(default_factory=Pace)
    unwatched: int = 0
    drafts: DraftCounts | None = None

    @classmethod
    def of(
        cls,
        id: int,
        prompt: tuple[int, ...],
        generated: tuple[int, ...],
        params: SamplingParams,
        *,
        max_new: int,
        ends: frozenset[int],
    ) -> Sequence:
        """A sequence that has not run here yet; ``generated`` comes from an earlier run."""
        return cls(
            id=id,
            params=params,
            tokens=array(TOKEN_TYPE, (*prompt, *generated)),
            prompt_tokens=len(prompt),
            generated=list(generated),
            max_new=max_new,
            ends=ends,
            first_index=len(generated),
        )

    @property
    def remaining(self) -> int:
        """Tokens whose keys and values are still to be computed."""
        return len(self.tokens) - self.computed

    @property
    def until_cut(self) -> int:
        """Tokens to be computed up to the next cut, or up to the end."""
        ends = (cut for cut in self.cuts if cut > self.computed)
        return min(ends, default=len(self.tokens)) - self.computed

    @property
    def most_tokens(self) -> int:
        """The length this sequence may grow to."""
        return self.prompt_tokens + self.max_new

    def append(self, token_id: int) -> None:
        """Add a sampled token; HelexaError if its mask does not let it come."""
        self.tokens.append(token_id)
        self.generated.append(token_id)
        if self.mask is not None:
            self.mask.accept(token_id)

    def page(self, index: int, size: int) -> bytes:
        """The token ids of one page, as the prefix tree compares them."""
        return self.tokens[index * size : (index + 1) * size].tobytes()

    def prompt_bytes(self) -> bytes:
        """The token ids of the prompt, 4 bytes each."""
        return self.tokens[: self.prompt_tokens].tobytes()

    def timing(self, now_s: float) -> Timing:
        """Where the time went, if the request ended now."""
        started = self.started_s if self.started_s is not None else now_s
        first = self.first_token_s if self.first_token_s is not None else now_s
        return Timing(
            prefill_ms=(first - started) * 1e3,
            decode_ms=(now_s - first) * 1e3,
            queue_ms=(started - self.submitted_s) * 1e3,
        )
