"""Short templated stories, as plain text and on request."""

from __future__ import annotations

from tools.tiny.corpus import vocabulary
from tools.tiny.corpus.base import Check, Dice, Sample, turns, user

OPENINGS = (
    "Once upon a time there was a {f} {a} named {n}.",
    "Once upon a time, a {f} {a} named {n} lived in a {p}.",
    "There was once a {f} {a} called {n}.",
    "Long ago, a {f} {a} named {n} lived near a {p}.",
    "In a small {p} lived a {f} {a} named {n}.",
)
SECOND = (
    "{n} lived in a {p} with a friend, the {b} {o}.",
    "Every day {n} walked to the {p} to meet {o} the {b}.",
    "{n} had a good friend, a {b} called {o}.",
    "{n} loved the {p} and knew every stone in it.",
)
TROUBLE = (
    "One {w} morning {n} lost a {t} in the {p}.",
    "One day {n} found an old {t} near the {p}.",
    "One evening a {t} fell into the river.",
    "One {w} day the {t} of {o} was gone.",
)
MIDDLE = (
    'They looked behind every tree. "Do not be sad," said {o}.',
    '"Let us look for it together," said {o}, and they went into the {p}.',
    "{n} asked the {c}, and the {c} pointed to the hill.",
    "They walked all day and crossed the bridge.",
)
TURN = (
    "At last {n} saw the {t} under a leaf.",
    "Behind a stone they found the {t}, bright as the moon.",
    "A {c} brought the {t} back and smiled.",
)
ENDINGS = (
    "{n} was happy, and they all went home. The end.",
    "That night {n} slept well, with the {t} by the bed. The end.",
    "From that day on, {n} and {o} were never alone. The end.",
    "They laughed and shared some bread. The end.",
)
ASK = (
    "Tell me a story.",
    "Tell me a short story.",
    "Write a story.",
    "Can you tell me a story?",
    "Please tell me a story.",
    "I want to hear a story.",
    "Write a short story.",
    "Make up a story.",
    "Tell a story",
    "Write me a short story.",
)
ABOUT = (
    "Tell me a story about a {a}.",
    "Write a story about a {a} named {n}.",
    "Write a short story about a {a}.",
    "Tell me a short story about a {a} called {n}.",
    "Can you tell me a story about a {a}?",
    "Make up a story about a {a}.",
)
ABOUT_HELD_OUT = ("Please write me a story about a {a}.", "I want a story about a {a} named {n}.")


def _story(dice: Dice) -> tuple[str, str, str]:
    """Return a story, its animal and its hero's name."""
    pick = dice.pick
    first, second, third = dice.sample(vocabulary.ANIMALS, 3)
    name, other = dice.name(), dice.name()
    parts = (OPENINGS, SECOND, TROUBLE, MIDDLE, TURN, ENDINGS)
    text = " ".join(pick(part) for part in parts).format(
        f=pick(vocabulary.FEELINGS),
        a=first,
        b=second,
        c=third,
        n=name,
        o=other,
        p=pick(vocabulary.PLACES),
        t=pick(vocabulary.THINGS),
        w=pick(vocabulary.WEATHER),
    )
    return text.replace(" a owl", " an owl").replace(" a otter", " an otter"), first, name


def make(dice: Dice) -> Sample:
    """Draw a request for a story."""
    text, animal, name = _story(dice)
    thought = f"I tell a story about a {animal}."
    check = Check("story")
    if dice.held_out or dice.chance(0.5):
        form = dice.phrase(ABOUT, ABOUT_HELD_OUT)
        ask = form.format(a=animal, n=name)
        check = Check("story", (animal,))
    else:
        ask = dice.pick(ASK)
    ask = ask.replace(" a owl", " an owl").replace(" a otter", " an otter")
    return Sample("stories", turns(user(dice.vary(ask))), text, check, thought)


def make_plain(dice: Dice) -> Sample:
    """Draw a story without any conversation, for text completion."""
    return Sample("plain", (), _story(dice)[0], Check("story"))
