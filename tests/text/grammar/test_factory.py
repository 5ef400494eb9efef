"""When grammars are compiled, how long that may take, and where an answer begins."""

from __future__ import annotations

import json
import random
import threading
import time
from typing import Any

import pytest

from helexa.engine.masks import GrammarSpec
from helexa.errors import UnsupportedGrammar
from helexa.text.grammar.factory import Bounds, GrammarFactory
from helexa.text.parsing.markers import Markers
from helexa.text.tokenizer import Tokenizer
from tests.text.grammar.following import ENDS, allowed, follow, started

ANY = GrammarSpec("json_object", "")


def constant(number: int) -> GrammarSpec:
    return GrammarSpec("json_schema", f'{{"const": {number}}}')


class Slow(GrammarFactory):
    """Compiles when it is let: a grammar that the library would never finish."""

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self.let = threading.Event()
        self.made = 0

    def _matcher(self, lark: str) -> Any:
        self.made += 1
        self.let.wait(30)
        return super()._matcher(lark)


class Renewing(GrammarFactory):
    """Counts the grammars that had to be made anew."""

    renewed = 0

    def _fresh(self, spec: GrammarSpec, lark: str) -> Any:
        self.renewed += 1
        return super()._fresh(spec, lark)


def test_a_grammar_that_takes_too_long_is_refused_in_time(tiny: Tokenizer) -> None:
    slow = Slow(tiny, Markers(), Bounds(compile_s=0.2))
    for _ in range(2):
        begun = time.monotonic()
        with pytest.raises(UnsupportedGrammar, match=r"0\.2 s"):
            slow.prepare(ANY)
        assert time.monotonic() - begun < 5
    slow.let.set()
    patient = GrammarFactory(tiny, Markers())
    patient.prepare(ANY)


def test_one_that_waits_for_its_turn_is_not_blamed(tiny: Tokenizer) -> None:
    slow = Slow(tiny, Markers(), Bounds(compile_s=0.2, queue_s=0.4, at_once=2))
    for number in range(2):
        with pytest.raises(UnsupportedGrammar, match="s to compile"):
            slow.prepare(constant(number))
    with pytest.raises(UnsupportedGrammar, match="other grammars"):
        slow.prepare(ANY)
    slow.let.set()


def test_a_grammar_is_compiled_once_for_many_threads(tiny: Tokenizer) -> None:
    counted = Slow(tiny, Markers())
    counted.let.set()
    threads = [threading.Thread(target=counted.prepare, args=(ANY,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counted.made == 1


def test_only_the_last_grammars_are_kept(tiny: Tokenizer) -> None:
    factory = Slow(tiny, Markers(), Bounds(kept=3))
    factory.let.set()
    for number in (1, 2, 3, 1, 4, 1, 2):
        factory.prepare(constant(number))
    assert factory.made == 5


def test_a_grammar_that_has_used_up_its_memory_is_made_anew(tiny: Tokenizer) -> None:
    """Answers share what the parser learns, up to a limit that none of them may fail by."""
    pattern = "^(.*a.{300}b.*|.*c.{300}d.*|.*e.{300}f.*)$"
    spec = GrammarSpec("json_schema", json.dumps({"type": "string", "pattern": pattern}))
    factory = Renewing(tiny, Markers(), Bounds(states=4_000))
    for seed in range(20):
        taken = follow(started(factory, spec), random.Random(seed), 6)
        assert len(taken) == 6
    assert factory.renewed


@pytest.mark.parametrize(
    ("prompt", "reasoning", "first"),
    [
        ("Hi", True, {"<think>", "{"}),
        ("Hi", False, {"{"}),
        ("<think>\n\n</think>\n\n", True, {"{"}),
        ("<think>a</think>b", True, {"<think>", "{"}),
        ("<think>a</think>b", False, {"{"}),
        ("<think>\n", True, None),
        ("<think>so", False, None),
    ],
    ids="may must-not switched-off earlier earlier-and-off opened begun".split(),
)
def test_reasoning_comes_first_where_it_may(
    factory: GrammarFactory, tiny: Tokenizer, prompt: str, reasoning: bool, first: set[str] | None
) -> None:
    ids = tiny.encode(prompt, add_special_tokens=False)
    mask = started(factory, GrammarSpec("json_object", "", reasoning), ids)
    texts = {tiny.id_to_bytes(at).decode("utf-8", "replace") for at in allowed(mask)}
    begun = {text for text in texts if text in ("<think>", "{", "a")}
    if first is not None:
        assert begun == first
        return
    assert begun == {"<think>", "{", "a"}
    assert not texts & {"<tool_call>", "</tool_call>", "<|im_end|>"}
    assert not ENDS & set(allowed(mask))


def test_after_reasoning_line_breaks_may_come_once(
    factory: GrammarFactory, tiny: Tokenizer
) -> None:
    mask = started(factory, ANY)
    for token_id in tiny.encode("<think>\nso</think>", add_special_tokens=False):
        mask.accept(token_id)
    (breaks,) = tiny.encode("\n\n", add_special_tokens=False)
    assert breaks in allowed(mask)
    mask.accept(breaks)
    assert breaks not in allowed(mask)
