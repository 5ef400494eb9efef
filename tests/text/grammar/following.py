"""Answers made of random tokens of a mask: what any model at all could write."""

from __future__ import annotations

import random
from collections.abc import Sequence

from helexa.engine.masks import GrammarSpec, TokenMask
from helexa.text.grammar.factory import GrammarFactory

ENDS = frozenset({1017, 1015})  # of tiny
MANY = 100_000


def allowed(mask: TokenMask) -> list[int]:
    bits = mask.fill()
    assert bits is not None
    return [i for i in range(8 * len(bits)) if bits[i >> 3] >> (i & 7) & 1]


def follow(mask: TokenMask, chance: random.Random, limit: int = MANY) -> list[int]:
    """Random tokens until the answer ends, or ``limit`` of them."""
    taken: list[int] = []
    while not mask.is_terminated and len(taken) < limit:
        token_id = chance.choice(allowed(mask))
        if token_id in ENDS:
            break
        mask.accept(token_id)
        taken.append(token_id)
    return taken


def started(
    factory: GrammarFactory, spec: GrammarSpec, prompt: Sequence[int] = (), max_tokens: int = MANY
) -> TokenMask:
    return factory.start(spec, prompt, ENDS, max_tokens)
