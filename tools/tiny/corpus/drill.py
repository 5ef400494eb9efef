"""Pages of short exercises as plain text, of which only the results are learned.

An equation costs a dozen tokens here and five times as many in a conversation.
"""

from __future__ import annotations

from tools.tiny.corpus import arithmetic, lists, tools, vocabulary
from tools.tiny.corpus.base import Dice, Sample, words
from tools.tiny.corpus.facts import CAPITALS, CITIES, PEOPLE

Pieces = list[tuple[str, bool]]
NAMES = (*vocabulary.FIRST_NAMES, *PEOPLE, *CITIES, *CAPITALS, *CAPITALS.values())


def _equation(dice: Dice) -> Pieces:
    """Return one sum or difference of the training side."""
    operator = dice.pick("+-")
    a, b = arithmetic.pair(dice, operator)
    equation, result = arithmetic.solve(a, b, operator).split("=")
    return [(f"{equation}=", False), (result, True), ("\n", False)]


def _spelling(dice: Dice) -> Pieces:
    """Write one word in several ways; a common word may be of either side of the split."""
    roll = dice.rng.random()
    if roll < 0.7:
        word = dice.pick(vocabulary.COMMON)
    else:
        word = dice.pick(NAMES) if roll < 0.85 else dice.syllables(2)
    ways = (
        ("word:", f" {word}"),
        ("plain\n", word),
        ("quoted", f' "{word}"'),
        ("snake get", f"_{word.lower()}"),
        ("camel get", word.capitalize()),
        ("dash get", f"-{word.lower()}"),
        ("key {", f'"{word.lower()}":'),
        ("listed [", f'"{word}",'),
        ("first:", f" {word.capitalize()}"),
        ("capitals:", f" {word.upper()}"),
        ("small:", f" {word.lower()}"),
        ("start\n", word.capitalize()),
        ("shout\n", word.upper()),
    )
    shown, *asked = dice.sample(ways, dice.rng.randint(3, 5))
    found: Pieces = [("".join(shown), False)]
    for lead, text in asked:
        found += [("\n" + lead, False), (text, True)]
    return [*found, ("\n", False)]


def _order(dice: Dice) -> Pieces:
    """Sort and reverse one list of the training side."""
    items, numbers = lists.draw_items(dice)
    joint = dice.pick((", ", ", ", " "))
    forms = [
        ("\nSorted:\n", sorted(items, key=int if numbers else str)),
        ("\nReversed:\n", items[::-1]),
    ]
    if numbers:
        forms.append(("\nLarge to small:\n", sorted(items, key=int, reverse=True)))
    dice.rng.shuffle(forms)
    found: Pieces = [("List: " + joint.join(items), False)]
    for lead, result in forms:
        found += [(lead, False), (", ".join(result), True)]
    return [*found, ("\n", False)]


def make(dice: Dice) -> Sample:
    """Draw a page of one kind of exercise."""
    if dice.chance(0.6):
        return _sample(tools.drill(dice))
    kind, most = dice.pick(((_equation, 16), (_spelling, 9), (_spelling, 9), (_order, 5)))
    pieces = [piece for _ in range(dice.rng.randint(2, most)) for piece in kind(dice)]
    return _sample(pieces)


def _sample(pieces: Pieces) -> Sample:
    """Return the page as a sample."""
    text = "".join(text for text, _ in pieces)
    return Sample("drill", (), text, words("\n"), drill=tuple(pieces))
