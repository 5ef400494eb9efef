"""What one training sample is, and the seeded dice every skill draws from."""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from tools.tiny.corpus import vocabulary

T = TypeVar("T")
Message = dict[str, Any]
Tool = dict[str, Any]

NO_THOUGHT = ""


@dataclass(frozen=True, slots=True)
class Check:
    """How an answer is graded: `exact` text, `words` that must occur, or a `call` as JSON."""

    kind: str
    value: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Exchange:
    """A later turn in training: what comes in (`user` or `tool`), and the answer to it."""

    message: Message
    answer: str
    thought: str
    thinking: bool = False


@dataclass(frozen=True, slots=True)
class Sample:
    """One prompt with the answer the model should give; no messages means plain text.

    `drill` is for training only: pieces of plain text, of which those marked true are learned.
    """

    skill: str
    messages: tuple[Message, ...]
    answer: str
    check: Check
    thought: str = NO_THOUGHT
    tools: tuple[Tool, ...] = ()
    thinking: bool = False
    follow: tuple[Exchange, ...] = ()
    drill: tuple[tuple[str, bool], ...] = ()

    def with_thinking(self, on: bool) -> Sample:
        """Return the same sample with the `<think>` block asked for or not."""
        return replace(self, thinking=on)


def exact(text: str) -> Check:
    """Grade by the whole answer."""
    return Check("exact", (text,))


def words(*needed: str) -> Check:
    """Grade by whole words (or phrases) that must all occur, in either case."""
    return Check("words", needed)


def user(text: str) -> Message:
    """A user's turn."""
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    """An assistant's turn."""
    return {"role": "assistant", "content": text}


def system(text: str) -> Message:
    """A system turn."""
    return {"role": "system", "content": text}


def is_held_out(key: str) -> bool:
    """Say on which side of the split `key` lies: one in eight is never trained on."""
    return zlib.crc32(key.encode()) % 8 == 0


class Dice:
    """Seeded random choices that keep to one side of the training/held-out split."""

    def __init__(self, seed: int, held_out: bool = False) -> None:
        self.rng = random.Random(seed)
        self.held_out = held_out

    def chance(self, probability: float) -> bool:
        """Return true with the given probability."""
        return self.rng.random() < probability

    def pick(self, options: Sequence[T]) -> T:
        """Pick one of `options`."""
        return self.rng.choice(options)

    def phrase(self, train: Sequence[str], held_out: Sequence[str]) -> str:
        """Pick a wording: held-out wordings exist only on the held-out side."""
        return self.rng.choice(held_out if self.held_out else train)

    def on_side(self, draw: Callable[[], str]) -> str:
        """Draw until the text lies on this side of the split."""
        while is_held_out(text := draw()) != self.held_out:
            pass
        return text

    def syllables(self, low: int = 1, high: int = 3) -> str:
        """Return an invented word of `low` to `high` syllables."""
        rng = self.rng
        text = ""
        for _ in range(rng.randint(low, high)):
            text += rng.choice(vocabulary.ONSETS) + rng.choice("aeiou")
        return text + rng.choice(vocabulary.CODAS)

    def any_word(self) -> str:
        """Return a word of mixed origin: invented, common or random letters."""
        roll = self.rng.random()
        if roll < 0.55:
            return self.syllables(2 if roll < 0.5 else 1)
        if roll < 0.85:
            return self.rng.choice(vocabulary.COMMON)
        letters = "abcdefghijklmnopqrstuvwxyz"
        return "".join(self.rng.choice(letters) for _ in range(self.rng.randint(3, 8)))

    def word(self) -> str:
        """Return a word of this side of the split."""
        return self.on_side(self.any_word)

    def name(self) -> str:
        """Return a capitalised name of this side of the split."""
        return self.on_side(self._any_name)

    def _any_name(self) -> str:
        if self.chance(0.4):
            return self.pick(vocabulary.FIRST_NAMES)
        return self.syllables(1 if self.chance(0.3) else 2).capitalize()

    def sample(self, options: Sequence[T], count: int) -> list[T]:
        """Pick `count` different items."""
        return self.rng.sample(options, count)

    def vary(self, text: str) -> str:
        """Return the request as people also type it: other case, no full stop, a polite start."""
        roll = self.rng.random()
        if roll < 0.08 and not text.lower().startswith(("please ", "can ", "could ", "i ")):
            text = self.pick(("Please ", "Can you ", "Could you ", "please ")) + lower_first(text)
            if text.startswith(("Can", "Could")):
                text = re.sub(r"[.!]$", "?", text)
        elif roll < 0.12:
            start = self.pick(("Hi! ", "Hello, ", "Hey, ", "OK. ", "Quick question: ", "Now: "))
            text = start + text
        elif roll < 0.24:
            text = lower_first(text)
        if self.chance(0.15):
            text = re.sub(r"[.?!]$", "", text)
        return text


def lower_first(text: str) -> str:
    """Lower the first letter unless the word is an acronym or "I"."""
    if len(text) > 1 and (text[1].isupper() or text[1] in " '’"):
        return text
    return text[:1].lower() + text[1:]


def turns(*messages: Message) -> tuple[Message, ...]:
    """Gather messages."""
    return messages


def wordings(text: str) -> tuple[str, ...]:
    """Cut a block of text at its bars into the wordings of one request."""
    return tuple(" ".join(part.split()) for part in text.split("|"))
