"""The corpus of the built-in model: seeded, split, and renderable."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from tokenizers import Tokenizer

from tools.tiny.corpus import arithmetic, facts, find, greetings, instructions, mix, tools
from tools.tiny.corpus.base import Dice, Sample, is_held_out
from tools.tiny.grade import grade
from tools.tiny.render import FOLDER, encode, parts, prompt, target

SKILLS = tuple(skill for skill in mix.MAKERS if skill != "drill")  # drills are never tested on


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """The tokenizer that ships."""
    return Tokenizer.from_file(str(FOLDER / "tokenizer.json"))


def training_samples(count: int = 300, seed: int = 3) -> list[Sample]:
    """Draw from the last stage's mixture."""
    dice = Dice(seed)
    return [mix.training(dice, 0.9) for _ in range(count)]


def test_same_seed_gives_the_same_samples() -> None:
    assert training_samples() == training_samples()


def test_other_seed_gives_other_samples() -> None:
    assert training_samples(seed=3) != training_samples(seed=4)


@pytest.mark.parametrize("skill", SKILLS)
def test_held_out_is_seeded(skill: str) -> None:
    assert list(mix.held_out(skill, 5, 8)) == list(mix.held_out(skill, 5, 8))


@pytest.mark.parametrize("progress", [0.0, 0.3, 0.99])
def test_every_stage_draws(progress: float) -> None:
    dice = Dice(1)
    assert all(mix.training(dice, progress).answer for _ in range(50))


@pytest.mark.parametrize("skill", SKILLS)
def test_the_right_answer_passes_its_check(skill: str) -> None:
    for sample in mix.held_out(skill, 1, 20):
        assert grade(sample, target(sample)).passed or skill == "plain_facts"


@pytest.mark.parametrize("skill", SKILLS)
def test_a_wrong_answer_fails(skill: str) -> None:
    for sample in mix.held_out(skill, 1, 4):
        assert not grade(sample, "zzz<|im_end|>").passed


def test_text_and_tokens_agree(tokenizer: Tokenizer) -> None:
    samples = training_samples(150)
    for sample, encoded in zip(samples, encode(tokenizer, samples), strict=True):
        assert len(encoded.ids) == len(encoded.weights)
        whole = "".join(text for text, _ in parts(sample))
        assert tokenizer.decode(encoded.ids, skip_special_tokens=False) == whole


def test_every_learned_piece_ends(tokenizer: Tokenizer) -> None:
    ends = {tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")}
    samples = [sample for sample in training_samples(150) if not sample.drill]
    for sample, encoded in zip(samples, encode(tokenizer, samples), strict=True):
        assert encoded.ids[-1] in ends
        assert encoded.weights[-1] > 0
        assert sample.answer


def _numbers(samples: Iterator[Sample]) -> set[str]:
    return {sample.answer.split(" = ")[0] for sample in samples}


def test_sums_are_split_by_pair() -> None:
    train, held = Dice(1), Dice(1, held_out=True)
    trained = _numbers(arithmetic.make(train) for _ in range(500))
    tested = _numbers(arithmetic.make(held) for _ in range(500))
    assert not trained & tested


def test_secrets_and_tools_are_split_by_word() -> None:
    held = Dice(2, held_out=True)
    assert all(is_held_out(find.secret(held)) for _ in range(50))
    for _ in range(50):
        tool = tools.invent(held)
        assert is_held_out(tool.noun)
        assert all(is_held_out(parameter.name) for parameter in tool.parameters)


def _wordings() -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    yield arithmetic.SUMS, arithmetic.SUMS_HELD_OUT
    yield arithmetic.DIFFERENCES, arithmetic.DIFFERENCES_HELD_OUT
    yield find.ASK, find.ASK_HELD_OUT
    yield instructions.ONLY, instructions.ONLY_HELD_OUT
    yield instructions.END, instructions.END_HELD_OUT
    yield instructions.START, instructions.START_HELD_OUT
    yield tools.REQUESTS, tools.REQUESTS_HELD_OUT
    yield tools.LOOKUPS, tools.LOOKUPS_HELD_OUT
    for topic in greetings.TOPICS:
        yield topic.asked, topic.held_out
    for relation in {fact[0].noun: fact[0] for fact in facts.FACTS}.values():
        yield relation.asked, relation.held_out


def test_wordings_are_split() -> None:
    for asked, held_out in _wordings():
        plain = {text.lower().rstrip(".?!") for text in asked}
        assert not plain & {text.lower().rstrip(".?!") for text in held_out}


def test_thinking_is_asked_for_in_the_prompt() -> None:
    (sample,) = mix.held_out("facts", 1, 1)
    assert prompt(sample.with_thinking(False)).endswith("<think>\n\n</think>\n\n")
    assert prompt(sample.with_thinking(True)).endswith("<|im_start|>assistant\n")


def test_every_byte_is_in_the_vocabulary(tokenizer: Tokenizer) -> None:
    text = "Ünïcödé 🦊 汉字 \x00\x7f"
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_every_figure_in_the_card_has_its_count() -> None:
    figures = json.loads((FOLDER / "evaluation.json").read_text())
    text = (FOLDER / "README.md").read_text()
    for skill, row in figures.items():
        assert row["n"] >= 200
        assert f"| {skill} | {row['n']} | {row['passed']:.1f} %" in text
