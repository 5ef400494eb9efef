"""E-047: conversations with recurrent models go on from where the last message began."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

import helexa
from tests.engine.models.families import hybrid

TINY = Path(helexa.__file__).parent / "builtin" / "tiny"
TEXT_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
SYSTEM = {"role": "system", "content": "You are a careful assistant. " * 10}
ASKED = {"role": "user", "content": "Tell me of the sea."}
ANSWERED = {"role": "assistant", "content": "The sea is wide and blue."}
FURTHER = {"role": "user", "content": "And the sky?"}


@pytest.fixture(scope="module", params=["qwen3_5", "qwen3_5_moe", "qwen3_next"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model with the built-in one's vocabulary and template."""
    made = tmp_path_factory.mktemp(request.param)
    vocabulary = json.loads((TINY / "config.json").read_text())["vocab_size"]
    hybrid("chat", request.param, vocab_size=vocabulary, max_position_embeddings=2048).save(made)
    for name in TEXT_FILES:
        shutil.copy(TINY / name, made / name)
    return made


def answers(folder: Path, **options: bool) -> list[tuple[str, int]]:
    """Text and cached tokens of a first turn, a second, and of another conversation."""
    first = [SYSTEM, ASKED]
    turns = [first, [*first, ANSWERED, FURTHER], [SYSTEM, FURTHER]]
    with helexa.LLM(folder, dtype="float32", **options) as llm:
        said = [llm.chat(turn, max_tokens=24, temperature=0) for turn in turns]
    return [(answer.text, answer.usage.cached_tokens) for answer in said]


def test_e047_a_second_turn_goes_on(folder: Path) -> None:
    warm, cold = answers(folder), answers(folder, prefix_cache=False)
    assert [text for text, _ in warm] == [text for text, _ in cold]
    assert [cached for _, cached in cold] == [0, 0, 0]
    fresh, second, other = (cached for _, cached in warm)
    assert fresh == 0
    assert second == headers(folder, [SYSTEM, ASKED])[-1]
    assert other == headers(folder, [SYSTEM, FURTHER])[1]


def headers(folder: Path, messages: list[dict[str, str]]) -> list[int]:
    """How many tokens of a prompt stand up to and with each message's first one."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = tokenizer.encode(text, add_special_tokens=False)
    opening = tokenizer.convert_tokens_to_ids("<|im_start|>")
    return [at + 1 for at, id in enumerate(ids) if id == opening]
