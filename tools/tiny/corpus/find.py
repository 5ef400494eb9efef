"""Copying: a marked word out of a text, and plain repetition."""

from __future__ import annotations

from tools.tiny.corpus import vocabulary
from tools.tiny.corpus.base import Dice, Exchange, Sample, exact, lower_first, turns, user, words

MARKS = (
    "secret word",
    "password",
    "code word",
    "magic word",
    "key",
    "hidden word",
    "code",
    "secret name",
    "secret code",
)
TOLD = ("The {m} is {w}.", "The {m} is: {w}.", "Note: the {m} is {w}.", "Remember: the {m} is {w}.")
MARKED = ("{M}: {w}", "{m} = {w}", "{M}: {w}.", "The {m} is «{w}».", 'The {m} is "{w}".')
ASK = (
    "What is the {m}?",
    "What is the {m} in the text?",
    "Tell me the {m}.",
    "Find the {m}.",
    "Which {m} is in the text?",
    "What was the {m}?",
    "Say the {m}.",
    "Give me the {m}.",
    "What {m} does the text name?",
    "Find the {m} in this text.",
)
ASK_HELD_OUT = (
    "Tell me the {m} in this text.",
    "Which {m} was in the text?",
    "What {m} is in the text?",
    "Please find the {m}.",
)
ONLY = (" Reply with only the word.", " Answer with one word.", " Just the word, please.")
FILLER = (
    "The {a} went to the {p}.",
    "A {f} {a} sat near the {p}.",
    "It was a {w} day in the {p}.",
    "The {t} was on the table.",
    "{n} found a {t} in the {p}.",
    "{n} and {o} walked to the {p}.",
    "In the evening the {a} slept.",
    "{n} likes the {t}.",
    "The {p} is old and very quiet.",
    "{n} told {o} about the {a}.",
    "Nobody saw the {a}.",
    "They had {x}, {y} and {x} again.",
    "Then it was {w} for {k} days.",
    "{n} has {k} friends.",
    "The {x} of the {y} is {f}.",
    "We read about {x} and {y}.",
    "A {t} costs {k} coins.",
    "The word {x} is hard to say.",
    "{o} said that the {p} was {f}.",
    "There is a {x} on the {y}.",
    "The {a} is called {o}.",
)


def filler(dice: Dice) -> str:
    """Return one sentence that has nothing to do with the question."""
    pick = dice.pick
    return pick(FILLER).format(
        a=pick(vocabulary.ANIMALS),
        p=pick(vocabulary.PLACES),
        t=pick(vocabulary.THINGS),
        f=pick(vocabulary.FEELINGS),
        w=pick(vocabulary.WEATHER),
        n=dice.name(),
        o=dice.name(),
        x=dice.word(),
        y=dice.word(),
        k=dice.rng.randint(2, 99),
    )


def _anything(dice: Dice) -> str:
    """Return mostly a word, sometimes digits or a code, of either side of the split."""
    roll = dice.rng.random()
    if roll < 0.7:
        return dice.any_word()
    if roll < 0.8:
        return dice.syllables(2).capitalize()
    digits = str(dice.rng.randint(100, 99999))
    return digits if roll < 0.92 else dice.any_word() + "-" + digits


def secret(dice: Dice) -> str:
    """Return the word to find, of this side of the split."""
    return dice.on_side(lambda: _anything(dice))


def _text(dice: Dice, sentences: int, marks: list[str], secrets: list[str]) -> str:
    """Return filler with one marked sentence per secret at random places."""
    lines = [filler(dice) for _ in range(sentences)]
    for mark, word in zip(marks, secrets, strict=True):
        form = dice.pick(TOLD if dice.chance(0.65) else MARKED)
        told = form.format(m=mark, M=mark.capitalize(), w=word)
        lines.insert(dice.rng.randint(0, len(lines)), told)
    return " ".join(lines)


def _ask(dice: Dice, mark: str, word: str) -> tuple[str, str, str]:
    """Return the question for one mark, the answer and the thought."""
    ask = dice.phrase(ASK, ASK_HELD_OUT).format(m=mark)
    answer = f"The {mark} is {word}."
    if dice.chance(0.3):
        ask, answer = ask + dice.pick(ONLY), word
    ask = lower_first(ask) if dice.chance(0.12) else ask
    return ask, answer, f"I look for the {mark}. It is {word}."


def make(dice: Dice, shortest: int = 1, longest: int = 24) -> Sample:
    """Draw a text of so many filler sentences (about 18 tokens each) with marked words."""
    count = dice.pick((1, 1, 2)) if dice.held_out else dice.pick((1, 2, 3, 4))
    marks = dice.sample(MARKS, count)
    secrets = [secret(dice) for _ in marks]
    text = _text(dice, dice.rng.randint(shortest, longest), marks, secrets)
    ask, answer, thought = _ask(dice, marks[0], secrets[0])
    joint = dice.pick((" ", "\n", "\n\n"))
    prompt = ask + joint + text if dice.chance(0.3) else text + joint + ask
    follow: tuple[Exchange, ...] = ()
    if not dice.held_out:
        later = [_ask(dice, m, w) for m, w in zip(marks[1:], secrets[1:], strict=True)]
        follow = tuple(Exchange(user(q), a, t) for q, a, t in later)
    check = words(secrets[0])
    return Sample("find", turns(user(prompt)), answer, check, thought, follow=follow)


REPEAT = (
    "Repeat: {t}",
    "Say: {t}",
    "Repeat after me: {t}",
    "Copy this: {t}",
    "Repeat these words: {t}",
    "Echo: {t}",
    "Write exactly: {t}",
)
REPEAT_HELD_OUT = ("Please repeat: {t}", "Copy these words: {t}", "Say exactly: {t}")


def make_repeat(dice: Dice) -> Sample:
    """Draw a request to repeat a few words exactly; in training they may be of either side."""
    count = dice.rng.randint(1, 9 if dice.held_out or dice.chance(0.4) else 24)
    draw = secret if dice.held_out else _anything
    text = " ".join(draw(dice) for _ in range(count))
    form = dice.phrase(REPEAT, REPEAT_HELD_OUT)
    return Sample("repeat", turns(user(form.format(t=text))), text, exact(text), "I repeat it.")
