"""Greedy answers to prompts that come and go, straight from a runner."""

from __future__ import annotations

from collections.abc import Callable

from helexa.engine.batch import Part
from helexa.engine.cache.kv import KVCache
from helexa.engine.graphs import DecodeGraphs
from helexa.engine.models.model import Model
from helexa.engine.runner import Runner
from tests.engine.models.families import prompt

PAGE = 4


class Answers:
    """Greedy answers to prompts that run side by side, page by page."""

    def __init__(self, model: Model, graphs: Callable[[KVCache], DecodeGraphs | None]) -> None:
        cache = model.new_cache(60, PAGE, states=6)
        self.runner = Runner(model, cache, graphs=graphs(cache))
        self.free = list(range(60))[::-1]
        self.tokens: list[list[int]] = []
        self.blocks: list[list[int]] = []
        self.done: list[int] = []

    def begin(self, ids: list[int]) -> None:
        """Run a prompt: its last token is not run yet, the one after it is unknown."""
        self.tokens.append(list(ids))
        self.blocks.append([])
        self.done.append(0)
        self.run([len(self.tokens) - 1])

    def run(self, rows: list[int]) -> None:
        """One step of these sequences: all that is not computed, and a token more."""
        parts = []
        for row in rows:
            while len(self.blocks[row]) * PAGE < len(self.tokens[row]):
                self.blocks[row].append(self.free.pop())
            new = self.tokens[row][self.done[row] :]
            parts.append(Part(new, self.done[row], self.blocks[row], True, row))
        logits = self.runner.run(parts)
        for row, token in zip(rows, logits.argmax(-1).tolist(), strict=True):
            self.done[row] = len(self.tokens[row])
            self.tokens[row].append(token)


def script(answers: Answers) -> list[list[int]]:
    """Sequences come and go; some steps are larger than any recording."""
    for start in (0, 7, 30):
        answers.begin(prompt(start + 5)[start:])
    for _ in range(3):
        answers.run([0, 1, 2])
    answers.run([2, 0])
    answers.begin(prompt(79)[70:])
    for _ in range(2):
        answers.run([0, 3, 1])
    answers.run([3, 2, 1, 0])
    answers.begin(prompt(4))
    answers.run([0, 1, 2, 3, 4])
    answers.run([1])
    return answers.tokens
