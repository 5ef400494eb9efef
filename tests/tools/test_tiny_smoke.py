"""The model that ships answers held-out prompts, read by transformers and decoded greedily."""

from __future__ import annotations

import pytest

from tools.tiny.corpus import mix
from tools.tiny.evaluate import Generate, run, with_transformers
from tools.tiny.render import FOLDER

SKILLS = (
    *("greetings", "arithmetic", "facts", "find", "no_tool", "results", "memory", "again"),
    *("instructions", "counting", "tools", "lists"),
)
EACH = 3


@pytest.fixture(scope="module")
def generate() -> Generate:
    """Greedy decoding with the shipped weights, in float32."""
    return with_transformers(FOLDER)


def test_held_out_prompts_pass(generate: Generate) -> None:
    samples = [sample for skill in SKILLS for sample in mix.held_out(skill, 23, EACH)]
    results = run(generate, samples, 100, len(samples))
    failed = [sample.skill for sample, (_, g) in zip(samples, results, strict=True) if not g.passed]
    assert len(failed) <= 0.1 * len(samples), failed


def test_every_output_stops_and_thinks_only_when_asked(generate: Generate) -> None:
    samples = list(mix.held_out("facts", 29, 8))
    grades = [g for _, g in run(generate, samples, 80, len(samples))]
    assert all(g.stopped for g in grades)
    assert all(g.thinking for g in grades)
