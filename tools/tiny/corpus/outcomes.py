"""What a tool may return, and the answer from it."""

from __future__ import annotations

import json
from typing import Any

from tools.tiny.corpus import vocabulary
from tools.tiny.corpus.base import Dice


def scalar(dice: Dice) -> Any:
    """Return a value a tool could give."""
    roll = dice.rng.random()
    if roll < 0.35:
        return dice.rng.randint(0, 999)
    if roll < 0.45:
        return round(dice.rng.uniform(0, 100), 1)
    return dice.word() if roll < 0.8 else dice.name()


def draw(dice: Dice, noun: str) -> tuple[str, str, tuple[str, ...]]:
    """Return the tool's text, the answer from it, and the words that the answer must have."""
    roll = dice.rng.random()
    value = scalar(dice)
    if roll < 0.3:
        text = str(value) if dice.chance(0.8) else f"{value!s} {dice.word()}"
        return text, f"The {noun} is {text}.", (text,)
    if roll < 0.36:
        problem = dice.pick(("not found", "no access", "timeout", f"unknown {noun}"))
        return json.dumps({"error": problem}), f"The tool failed: {problem}.", (problem,)
    if roll < 0.6:
        key = dice.pick(("result", "value", noun, noun))
        return json.dumps({key: value}), f"The {noun} is {value!s}.", (str(value),)
    keys: list[str] = []
    while len(keys) < dice.rng.randint(2, 3):
        key = dice.on_side(lambda: dice.pick(vocabulary.COMMON))
        if key not in (*keys, noun):
            keys.append(key)
    body = {key: scalar(dice) for key in keys}
    said = [f"the {key} is {v!s}" for key, v in body.items()]
    told = ", ".join(said[:-1]) + " and " + said[-1] + "."
    return json.dumps(body), told[0].upper() + told[1:], tuple(map(str, body.values()))
