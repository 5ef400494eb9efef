"""Sums and differences of numbers from 0 to 50; one pair in eight is held out."""

from __future__ import annotations

from tools.tiny.corpus.base import Dice, Sample, turns, user, words

LIMIT = 50
SMALL = 12

SUMS = (
    "What is {a} + {b}?",
    "What is {a} + {b}?",
    "What is {a} + {b}?",
    "{a} + {b}",
    "{a}+{b}",
    "{a} + {b} =",
    "What is {a} plus {b}?",
    "{a} plus {b}",
    "Add {a} and {b}.",
    "Add {b} to {a}.",
    "How much is {a} + {b}?",
    "How much is {a} plus {b}?",
    "Calculate {a} + {b}.",
    "Compute {a} plus {b}.",
    "What is the sum of {a} and {b}?",
    "The sum of {a} and {b} is?",
    "What do {a} and {b} make?",
    "Work out {a} + {b}.",
    "I have {a} {x} and get {b} more. How many {x} do I have?",
    "There are {a} {x} and {b} more come. How many {x} are there?",
    "What do you get if you add {a} and {b}?",
    "Solve {a} + {b}.",
)
SUMS_HELD_OUT = (
    "Tell me {a} + {b}.",
    "What does {a} plus {b} make?",
    "Give me the sum of {a} and {b}.",
    "How much do {a} and {b} make?",
    "Please work out {a} plus {b}.",
    "What is {a}+{b}?",
)
DIFFERENCES = (
    "What is {a} - {b}?",
    "What is {a} - {b}?",
    "{a} - {b}",
    "{a}-{b}",
    "{a} - {b} =",
    "What is {a} minus {b}?",
    "{a} minus {b}",
    "Take {b} from {a}.",
    "Subtract {b} from {a}.",
    "How much is {a} - {b}?",
    "How much is {a} minus {b}?",
    "Calculate {a} - {b}.",
    "Compute {a} minus {b}.",
    "Work out {a} - {b}.",
    "What is left if you take {b} from {a}?",
    "Take away {b} from {a}.",
    "Solve {a} - {b}.",
)
STORIES = (
    "I have {a} {x} and give away {b}. How many {x} are left?",
    "There are {a} {x} and {b} go away. How many {x} are left?",
    "I had {a} {x} and lost {b}. How many {x} do I have now?",
)
DIFFERENCES_HELD_OUT = (
    "Tell me {a} - {b}.",
    "Give me {a} minus {b}.",
    "What do you get if you subtract {b} from {a}?",
    "Please take {b} from {a}.",
    "What is {a}-{b}?",
    "What is left if you subtract {b} from {a}?",
)
OBJECTS = ("apples", "pears", "books", "coins", "stones", "birds", "cups", "eggs", "cards", "fish")


def pair(dice: Dice, operator: str) -> tuple[int, int]:
    """Draw two operands on this side of the split; small ones more often in training."""

    def draw() -> str:
        top = SMALL if not dice.held_out and dice.chance(0.25) else LIMIT
        a, b = dice.rng.randint(0, top), dice.rng.randint(0, top)
        if operator == "-" and a < b and dice.chance(0.6):
            a, b = b, a
        return f"{a} {operator} {b}"

    left, _, right = dice.on_side(draw).split()
    return int(left), int(right)


def solve(a: int, b: int, operator: str) -> str:
    """Return the answer's text, for example `17 + 25 = 42.`."""
    return f"{a} {operator} {b} = {a + b if operator == '+' else a - b}."


def reason(a: int, b: int, operator: str) -> str:
    """Return a short derivation by tens and ones."""
    if operator == "+":
        tens, ones = a // 10 * 10 + b // 10 * 10, a % 10 + b % 10
        return f"Add {a} and {b}. Tens: {tens}. Ones: {ones}. Together: {tens + ones}."
    if a < b:
        return f"Take {b} from {a}. {b} is more, so the answer is below zero. {b} - {a} = {b - a}."
    return f"Take {b} from {a}. {a} - {b // 10 * 10} = {a - b // 10 * 10}. Minus {b % 10}: {a - b}."


def question(dice: Dice) -> tuple[str, str, str, str]:
    """Return question, answer, thought and the result."""
    operator = dice.pick("+-")
    a, b = pair(dice, operator)
    if operator == "+":
        form = dice.phrase(SUMS, SUMS_HELD_OUT)
    else:
        train = DIFFERENCES + STORIES if a >= b else DIFFERENCES
        form = dice.phrase(train, DIFFERENCES_HELD_OUT)
    text = form.format(a=a, b=b, x=dice.pick(OBJECTS))
    result = str(a + b if operator == "+" else a - b)
    return text, solve(a, b, operator), reason(a, b, operator), result


def make(dice: Dice) -> Sample:
    """Draw one sum or difference."""
    text, answer, thought, result = question(dice)
    if not text[0].isdigit():
        text = dice.vary(text)
    return Sample("arithmetic", turns(user(text)), answer, words(f"= {result}"), thought)
