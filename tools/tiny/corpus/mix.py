"""The mixture: how often each skill is drawn, and how that changes while training goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType

from tools.tiny.corpus import (
    arithmetic,
    chat,
    drill,
    find,
    greetings,
    instructions,
    lists,
    results,
    stories,
    tools,
    world,
)
from tools.tiny.corpus.base import Dice, Exchange, Sample, system

Maker = Callable[[Dice], Sample]

MAKERS: Mapping[str, Maker] = MappingProxyType(
    {
        "greetings": greetings.make,
        "arithmetic": arithmetic.make,
        "drill": drill.make,
        "lists": lists.make,
        "counting": lists.make_count,
        "facts": world.make,
        "unknown": world.make_unknown,
        "find": find.make,
        "find_long": partial(find.make, shortest=40, longest=95),
        "repeat": find.make_repeat,
        "instructions": instructions.make,
        "tools": tools.make,
        "no_tool": tools.make_without,
        "results": results.make,
        "memory": chat.make,
        "again": chat.make_again,
        "stories": stories.make,
        "plain": stories.make_plain,
        "plain_facts": world.make_plain,
    }
)

# (until this share of the run, weight of each skill); a sample of find_long is ten times as long
SCHEDULE: tuple[tuple[float, Mapping[str, float]], ...] = (
    (
        0.0375,
        MappingProxyType(
            dict(repeat=36, find=8, arithmetic=12, facts=10, greetings=3, lists=12, tools=6)
            | dict(memory=6, instructions=8, plain=0.5, counting=4, unknown=1)
        ),
    ),
    (
        0.0790,
        MappingProxyType(
            dict(repeat=2, find=5, find_long=0.3, arithmetic=30, facts=14, greetings=6, lists=15)
            | dict(tools=11, no_tool=1.5, results=3, memory=4, again=4, instructions=11)
            | dict(counting=2.5, unknown=2.5, stories=1.2, plain=0.6, plain_facts=0.4)
        ),
    ),
    (
        0.1976,
        MappingProxyType(
            dict(repeat=1.5, find=3.5, find_long=0.5, arithmetic=18, drill=16, facts=6, greetings=4)
            | dict(tools=16, no_tool=7, results=4, memory=3, again=3.5, instructions=20, lists=20)
            | dict(counting=4, unknown=1.5, stories=2, plain=0.8, plain_facts=0.3)
        ),
    ),
    (
        0.4784,
        MappingProxyType(
            dict(repeat=3, find=3.5, find_long=0.4, arithmetic=14, drill=18, facts=5, greetings=4)
            | dict(tools=33, no_tool=6, results=4, memory=3, again=3.5, instructions=27, lists=36)
            | dict(counting=5, unknown=1.5, stories=2, plain=0.8, plain_facts=0.3)
        ),
    ),
    (
        0.5200,
        MappingProxyType(
            dict(repeat=2, find=3, find_long=0.4, arithmetic=8, drill=10, facts=4, greetings=4)
            | dict(tools=44, no_tool=6, results=4, memory=3, again=3.5, instructions=14, lists=48)
            | dict(counting=2, unknown=1.5, stories=2, plain=0.8, plain_facts=0.3)
        ),
    ),
    (
        0.7732,
        MappingProxyType(
            dict(repeat=2, find=3, find_long=0.4, arithmetic=9, drill=22, facts=5, greetings=4)
            | dict(tools=36, no_tool=7, results=4, memory=3, again=3.5, instructions=16, lists=36)
            | dict(counting=3, unknown=1.5, stories=2, plain=0.8, plain_facts=0.3)
        ),
    ),
    (
        0.8007,
        MappingProxyType(
            dict(repeat=2, find=3, find_long=0.4, arithmetic=9, drill=30, facts=4, greetings=4)
            | dict(tools=44, no_tool=6, results=4, memory=3, again=3, instructions=28, lists=26)
            | dict(counting=3, unknown=1.5, stories=1.5, plain=0.6, plain_facts=0.3)
        ),
    ),
    (
        1.01,
        MappingProxyType(
            dict(repeat=2, find=3, find_long=0.4, arithmetic=8, drill=32, facts=4, greetings=3)
            | dict(tools=52, no_tool=6, results=4, memory=3, again=3, instructions=27, lists=25)
            | dict(counting=3, unknown=1.5, stories=1.5, plain=0.6, plain_facts=0.3)
        ),
    ),
)
SHORT = ("greetings", "arithmetic", "lists", "facts", "unknown", "counting")


def dress(dice: Dice, sample: Sample) -> Sample:
    """Put the sample in one of the settings a conversation may have."""
    if not sample.messages:
        return sample
    follow = sample.follow
    if sample.skill in SHORT and dice.chance(0.12):
        follow = tuple(_follow_up(dice) for _ in range(dice.pick((1, 2, 3))))
    thinking = dice.chance(0.3)
    later = tuple(replace(e, thinking=thinking) for e in follow)
    sample = replace(sample, thinking=thinking, follow=later)
    if sample.messages[0]["role"] != "system" and dice.chance(0.12):
        sample = with_system(sample, instructions.plain_rule(dice))
    if sample.skill in (*SHORT, "tools", "stories", "repeat") and dice.chance(0.04):
        sample = chat.after_a_turn(dice, sample)
    return sample


def _follow_up(dice: Dice) -> Exchange:
    """Draw another short question as a later turn."""
    other = MAKERS[dice.pick(SHORT)](dice)
    return Exchange(other.messages[-1], other.answer, other.thought)


def with_system(sample: Sample, rule: str) -> Sample:
    """Return the sample with a system turn before it."""
    return replace(sample, messages=(system(rule), *sample.messages))


def training(dice: Dice, progress: float) -> Sample:
    """Draw one training sample at `progress` (0 to 1) of the run."""
    weights = next(weights for until, weights in SCHEDULE if progress < until)
    (skill,) = dice.rng.choices(tuple(weights), tuple(weights.values()))
    return dress(dice, MAKERS[skill](dice))


def held_out(skill: str, seed: int, count: int) -> Iterator[Sample]:
    """Draw `count` held-out samples of one skill, every other one with thinking on."""
    dice = Dice(seed, held_out=True)
    for index in range(count):
        yield MAKERS[skill](dice).with_thinking(index % 2 == 1)
