"""Grammars by need: compiled within bounds of time and memory, and kept for the next request."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from helexa.engine.masks import GrammarSpec
from helexa.errors import UnsupportedGrammar
from helexa.text.grammar.closing import Closer
from helexa.text.grammar.lark import lark_text
from helexa.text.grammar.mask import Alphabet, ConstrainedAnswer, Stage
from helexa.text.parsing.markers import Markers
from helexa.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

PROBE_TOKENS: Final = 6
# The library's own limits; work is counted, not timed.
LIMITS: Final[dict[str, Any]] = {
    "max_items_in_row": 4_000,
    "initial_lexer_fuel": 1_000_000,
    "step_lexer_fuel": 200_000,
    "step_max_items": 50_000,
    "max_grammar_size": 100_000,
}
_END: Final = b"<|end of text|>"


@dataclass(frozen=True, slots=True)
class Bounds:
    """What grammars may cost.

    ``compile_s`` is the time for one, once it has its turn within ``queue_s``; ``at_once`` are
    compiled side by side and ``kept`` remembered. A lexer state takes about 0.6 kB, and all answers
    of a grammar share ``states`` of them.
    """

    compile_s: float = 5.0
    queue_s: float = 30.0
    at_once: int = 2
    kept: int = 32
    states: int = 20_000


@dataclass(frozen=True, slots=True)
class _Compiled:
    """A grammar at its beginning, or why there is none."""

    lark: str
    matcher: LLMatcher | None = None
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class _Vocabulary:
    tokenizer: LLTokenizer
    alphabet: Alphabet


class GrammarFactory:
    """The `MaskFactory` of one tokenizer. Nothing is imported or built before the first grammar,
    unless by `read_vocabulary`.

    Grammars are compiled on threads of their own, so that one that takes too long holds nobody up:
    who asked for it is refused.
    """

    def __init__(
        self, tokenizer: Tokenizer, markers: Markers, bounds: Bounds | None = None
    ) -> None:
        self._tokenizer = tokenizer
        self._markers = markers
        self._bounds = bounds or Bounds()
        self._lock = threading.Lock()
        self._building = threading.Lock()
        self._slots = threading.BoundedSemaphore(self._bounds.at_once)
        self._kept: OrderedDict[tuple[str, str], Future[_Compiled]] = OrderedDict()
        self._vocabulary: _Vocabulary | None = None

    def read_vocabulary(self) -> None:
        """Do ahead what the first grammar would have to wait for; seconds with a large one."""
        self._words()

    def prepare(self, spec: GrammarSpec) -> None:
        """Compile a grammar and keep it. Raises UnsupportedGrammar if it is not to be had."""
        self._compiled(spec)

    def start(
        self, spec: GrammarSpec, prompt: Sequence[int], ends: frozenset[int], max_tokens: int
    ) -> ConstrainedAnswer:
        """A mask for an answer to ``prompt``; quick if the spec was prepared."""
        compiled = self._compiled(spec)
        assert compiled.matcher is not None
        return ConstrainedAnswer(
            compiled.matcher.deep_copy(),
            lambda: self._fresh(spec, compiled.lark),
            self._words().alphabet,
            ends,
            self._stage(spec, prompt),
            max_tokens=max_tokens,
        )

    def _stage(self, spec: GrammarSpec, prompt: Sequence[int]) -> Stage:
        """Where an answer begins: inside reasoning that the prompt opened, or before its own.

        A prompt that ends with closed reasoning has switched it off.
        """
        pair = self._markers.reasoning
        if pair is None:
            return "answer"
        closed = True  # with nothing but white space so far
        for token_id in reversed(prompt):
            if token_id == pair.open_id:
                return "reasoning"
            if token_id == pair.close_id:
                return "answer" if closed or not spec.reasoning else "start"
            closed = closed and self._tokenizer.id_to_bytes(token_id).isspace()
        return "start" if spec.reasoning else "answer"

    # -- compiling ----------------------------------------------------------------------------

    def _compiled(self, spec: GrammarSpec) -> _Compiled:
        self._words()  # not on the grammar's time
        key = (spec.kind, spec.text)
        with self._lock:
            waited = self._kept.get(key)
            if waited is None:
                waited = self._kept[key] = Future()
                threading.Thread(
                    target=self._compile, args=(spec, waited), name="helexa-grammar", daemon=True
                ).start()
                while len(self._kept) > self._bounds.kept:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
        compiled = self._wait(waited)
        if compiled.matcher is None:
            raise refused(spec, compiled.refusal)
        return compiled

    def _wait(self, waited: Future[_Compiled]) -> _Compiled:
        """What came of a grammar, or that it takes too long, once it has its turn."""
        limit_s = self._bounds.compile_s
        for _ in range(max(1, round(self._bounds.queue_s / limit_s))):
            queued = not waited.running()
            try:
                return waited.result(limit_s)
            except TimeoutError:
                if not queued:
                    return _Compiled("", refusal=f"it takes more than {limit_s:g} s to compile")
        return _Compiled("", refusal="too many other grammars are being compiled")

    def _compile(self, spec: GrammarSpec, waited: Future[_Compiled]) -> None:
        with self._slots:
            waited.set_running_or_notify_cancel()
            try:
                lark = lark_text(spec, self._markers)
                matcher = self._matcher(lark)
                problem = _problem(matcher) or _probe(matcher.deep_copy())
                done = _Compiled(lark, None if problem else matcher, problem)
            except UnsupportedGrammar as error:
                done = _Compiled("", refusal=error.message)
            except BaseException as error:  # the edge of the thread, and a panic in the library is
                # no Exception: the one who waits is told
                done = _Compiled("", refusal=f"{type(error).__name__}: {error}")
            waited.set_result(done)

    def _fresh(self, spec: GrammarSpec, lark: str) -> LLMatcher:
        """A matcher that shares nothing; the worn one is not handed out again."""
        with self._lock:
            self._kept.pop((spec.kind, spec.text), None)
        return self._matcher(lark)

    def _matcher(self, lark: str) -> LLMatcher:
        from llguidance import LLMatcher, LLParserLimits

        states = self._bounds.states
        limits = LLParserLimits(**LIMITS, max_lexer_states=states, verbose_errors=False)
        return LLMatcher(self._words().tokenizer, lark, log_level=0, limits=limits)

    # -- the vocabulary -----------------------------------------------------------------------

    def _words(self) -> _Vocabulary:
        with self._building:
            if self._vocabulary is None:
                self._vocabulary = _read_vocabulary(self._tokenizer, self._markers)
            return self._vocabulary


class _Words:
    """What the library reads a vocabulary from; it calls it to encode, which is never needed."""

    def __init__(self, tokens: list[bytes], marks: list[int], end: int) -> None:
        self.tokens = tokens
        self.special_token_ids = marks
        self.eos_token_id = end
        self.bos_token_id = None

    def __call__(self, text: str) -> list[int]:
        return []


def _read_vocabulary(tokenizer: Tokenizer, markers: Markers) -> _Vocabulary:
    """The bytes of every token. Added tokens are marks: no text, not even a free one, has them.

    The library's own end token is one past the mask, because what ends an answer differs between
    requests.
    """
    from llguidance import LLTokenizer, TokenizerWrapper

    count = tokenizer.id_limit
    end = -(-count // 32) * 32
    marks = tokenizer.added_ids
    tokens = [tokenizer.id_to_bytes(token_id) for token_id in range(count)]
    blank = frozenset(at for at, text in enumerate(tokens) if text in (b"\n", b"\n\n"))
    tokens += [b""] * (end - count) + [_END]
    words = _Words(tokens, [*sorted(marks), end], end)
    pair, tool = markers.reasoning, markers.tool
    alphabet = Alphabet(
        tokens=tokens,
        closer=Closer([b"" if at in marks else text for at, text in enumerate(tokens)]),
        mask_bytes=end // 8,
        marks=marks,
        blank=blank - marks,
        banned=frozenset() if tool is None else frozenset({tool.open_id, tool.close_id}),
        reasoning=None if pair is None else (pair.open_id, pair.close_id),
    )
    return _Vocabulary(LLTokenizer(TokenizerWrapper(words), eos_token=end), alphabet)


def refused(spec: GrammarSpec, reason: str) -> UnsupportedGrammar:
    """The refusal of a grammar, with the field of the request that it came from."""
    calls = spec.kind == "tool_calls"
    return UnsupportedGrammar(
        f"{'the tools' if calls else 'response_format'} cannot be enforced: {reason}",
        param="tools" if calls else "response_format",
        hint="docs/sdk.md lists what a schema may say",
    )


def _problem(matcher: LLMatcher) -> str:
    """Why a grammar is not usable, in one line; empty if it is."""
    if not matcher.is_error():
        return ""
    said = matcher.get_error()
    line = said.partition("\n")[0].removeprefix("failed to parse ")
    if line.endswith(":") and (reason := re.search(r"^error: (.+)$", said, re.MULTILINE)):
        line = f"{line} {reason[1]}"  # a pattern: the lines between quote it
    line = re.sub(r"^at \d+\(\d+\): (failed to compile JSON schema: )?", "", line)
    if line.startswith("NoExtension"):
        return "no value fits it"
    return line[:300]


def _probe(matcher: LLMatcher) -> str:
    """Go a few tokens into a grammar: one that is too costly to follow mostly shows it at once."""
    for step in range(PROBE_TOKENS):
        bits = int.from_bytes(matcher.compute_bitmask(), "little")
        if matcher.is_stopped() or not bits:
            break
        lowest = (bits & -bits).bit_length() - 1
        matcher.consume_token(bits.bit_length() - 1 if step % 2 else lowest)
    return _problem(matcher)
