"""Sorting, reversing, counting and listing."""

from __future__ import annotations

from tools.tiny.corpus import vocabulary
from tools.tiny.corpus.base import Dice, Sample, exact, is_held_out, lower_first, turns, user

SORT = (
    "Sort these {what}: {items}",
    "Sort: {items}",
    "Sort the list: {items}",
    "Put these {what} in order: {items}",
    "Order these {what}: {items}",
    "Sort the {what} {items}.",
    "Put in order: {items}",
    "Can you sort these {what}? {items}",
    "{items}: sort them.",
    "Can you sort {items}?",
    "Sort {items} for me.",
    "Now sort {items}",
    "Sort {items}.",
    "Bring {items} into order.",
    "I have {items}. Sort them.",
    "Order the {what} {items}, please.",
    "Arrange the {what}: {items}",
    "Arrange {items} in order.",
    "Put {items} in the right order.",
)
SORT_HELD_OUT = (
    "Sort the following {what}: {items}",
    "Please sort {items}.",
    "Put the {what} {items} in order.",
)
UP_WORDS = ("Sort these words alphabetically: {items}", "Put in alphabetical order: {items}")
UP_NUMBERS = (
    "Sort from small to large: {items}",
    "Sort these numbers from smallest to largest: {items}",
    "Sort in ascending order: {items}",
)
DOWN_NUMBERS = (
    "Sort from large to small: {items}",
    "Sort these numbers from largest to smallest: {items}",
    "Sort in descending order: {items}",
)
REVERSE = (
    "Reverse these {what}: {items}",
    "Reverse: {items}",
    "Reverse the list: {items}",
    "Write these {what} backwards: {items}",
    "Reverse the order of these {what}: {items}",
    "Turn this list around: {items}",
    "Say these {what} in reverse order: {items}",
    "Can you reverse these {what}? {items}",
    "{items}: reverse them.",
    "Can you reverse {items}?",
    "Reverse {items} for me.",
    "Now reverse {items}",
    "Reverse {items}.",
    "Say {items} backwards.",
    "I have {items}. Reverse them.",
    "Reverse the {what} {items}, please.",
    "Write down the {what} backwards: {items}",
    "Turn {items} around.",
    "Put {items} in reverse order.",
    "List the {what} backwards: {items}",
)
REVERSE_HELD_OUT = (
    "Reverse the following {what}: {items}",
    "Please reverse {items}.",
    "Write the list backwards: {items}",
)
COUNT_DOWN = (
    "Count down from {} to {}.",
    "Count backwards from {} to {}.",
    "Count from {} back to {}.",
    "Count from {} to {}.",
    "Count from {} backwards to {}.",
    "Go down from {} to {}.",
    "List the numbers from {} down to {}.",
    "Say the numbers from {} down to {}.",
    "From {} count down to {}.",
)
COUNT_UP = (
    "Count from {} to {}.",
    "Count up from {} to {}.",
    "List the numbers from {} to {}.",
    "Count from {} up to {}.",
    "Say the numbers from {} to {}.",
)
LISTS = {
    "List the days of the week.": "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday.",
    "List the months of the year.": "January, February, March, April, May, June, July, August, "
    "September, October, November, December.",
    "List the seasons.": "spring, summer, autumn, winter.",
    "Say the alphabet.": "a b c d e f g h i j k l m n o p q r s t u v w x y z.",
    "List the colours of the rainbow.": "red, orange, yellow, green, blue, indigo, violet.",
    "List the planets.": "Mercury, Venus, Earth, Mars, Jupiter, Saturn, Uranus, Neptune.",
}
LIST_FORMS = ("{}", "Please {}", "What are {}", "Name {}", "Tell me {}")


def _word(dice: Dice) -> str:
    """Return a common word or, less often, an invented one."""
    return dice.pick(vocabulary.COMMON) if dice.chance(0.65) else dice.syllables(2)


def _numbers(dice: Dice, count: int) -> list[int]:
    """Return different numbers: below 100, below 10, or some of each length."""
    roll = dice.rng.random()
    if roll < 0.6:
        return dice.rng.sample(range(100), count)
    if roll < 0.75:
        return dice.rng.sample(range(10), count)
    short = dice.rng.randint(1, count - 1)
    found = dice.rng.sample(range(10), short) + dice.rng.sample(range(10, 100), count - short)
    return dice.sample(found, count)


def draw_items(dice: Dice) -> tuple[list[str], bool]:
    """Draw 3 to 5 different items: numbers below 100, or words with different first letters.

    The split goes by the whole list; its words may be of either side.
    """
    count = dice.rng.randint(3, 5)
    while True:
        numbers = dice.chance(0.45)
        if numbers:
            items = [str(n) for n in _numbers(dice, count)]
        else:
            items = [_word(dice) for _ in range(count)]
        distinct = numbers or len({item[0] for item in items}) == count
        if distinct and is_held_out(" ".join(items)) == dice.held_out:
            return items, numbers


def _sorted(dice: Dice, items: list[str], numbers: bool) -> tuple[str, list[str], str]:
    """Return the request's form, the ordered items and the thought."""
    key = int if numbers else str
    form = dice.phrase(SORT, SORT_HELD_OUT)
    down = False
    if dice.chance(0.35):
        if numbers:
            down = dice.chance(0.5)
            form = dice.pick(DOWN_NUMBERS if down else UP_NUMBERS)
        else:
            form = dice.pick(UP_WORDS)
    ordered = sorted(items, key=key, reverse=down)
    how = "large to small" if down else ("small to large" if numbers else "a to z")
    return form, ordered, f"Sort from {how}."


def make(dice: Dice) -> Sample:
    """Draw a list to sort or to reverse."""
    items, numbers = draw_items(dice)
    if dice.chance(0.5):
        form, result, thought = _sorted(dice, items, numbers)
    else:
        form, result = dice.phrase(REVERSE, REVERSE_HELD_OUT), items[::-1]
        thought = f"Reverse the list. Start with the last, {result[0]}, and end with {result[-1]}."
    joint = dice.pick((", ", ", ", ", ", " "))
    what = "numbers" if numbers else "words"
    text = form.format(what=what, items=joint.join(items))
    text = lower_first(text) if dice.chance(0.15) else text
    answer = ", ".join(result)
    return Sample("lists", turns(user(text)), answer, exact(answer), thought)


def make_count(dice: Dice) -> Sample:
    """Draw a request to count, or to list something everyone knows."""
    if not dice.held_out and dice.chance(0.3):
        known = dice.pick(tuple(LISTS))
        text, answer = known, LISTS[known]
        thing = known.split(" ", 1)[1]
        text = dice.pick((known, "Please " + known.lower(), "Can you " + known.lower()[:-1] + "?"))
        if known.startswith("List"):
            text = dice.pick((text, f"What are {thing[:-1]}?", f"Name {thing}", f"Tell me {thing}"))
        return Sample("counting", turns(user(text)), answer, exact(answer), "I list them in order.")

    def draw() -> str:
        low = dice.rng.randint(0, 40) if dice.chance(0.85) else 1
        return f"{low} {low + dice.rng.randint(3, 15)}"

    low, high = map(int, dice.on_side(draw).split())
    down = dice.chance(0.4)
    first, last = (high, low) if down else (low, high)
    if down:
        form = dice.phrase(COUNT_DOWN, ("Count from {} down to {}.",))
    else:
        form = dice.phrase(COUNT_UP, ("Count the numbers from {} to {}.",))
    text = form.format(first, last)
    if low == 1 and not down and not dice.held_out and dice.chance(0.5):
        text = f"Count to {high}."
    numbers = range(first, last + (-1 if down else 1), -1 if down else 1)
    answer = ", ".join(map(str, numbers)) + "."
    thought = f"I count {'down' if down else 'up'} from {first} to {last}."
    return Sample("counting", turns(user(dice.vary(text))), answer, exact(answer), thought)
