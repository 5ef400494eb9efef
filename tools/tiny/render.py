"""From samples to text and tokens, through the chat template that ships with the model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from tools.tiny.corpus.base import Sample
from tools.tiny.tokenizer import END, END_OF_TEXT, START

NO_THINKING = "<think>\n\n</think>\n\n"
FOLDER = Path(__file__).parents[2] / "src" / "helexa" / "builtin" / "tiny"


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of a sample, and how much each counts: zero where it is only read."""

    ids: list[int]
    weights: list[float]


@cache
def _template() -> Any:
    """Compile the template as Hugging Face does."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.from_string((FOLDER / "chat_template.jinja").read_text())


def prompt(sample: Sample) -> str:
    """Return what the model reads: the conversation up to its answer, or the start of a text."""
    if not sample.messages:
        return " ".join(sample.answer.split(" ")[:4])
    text: str = _template().render(
        messages=sample.messages,
        tools=sample.tools or None,
        add_generation_prompt=True,
        enable_thinking=sample.thinking,
    )
    return text


def written(answer: str, thought: str, thinking: bool) -> str:
    """Return what the model should write, with the token that ends it."""
    block = f"<think>\n{thought}\n</think>\n\n" if thinking else ""
    return block + answer + END


def target(sample: Sample) -> str:
    """Return what the model should write after the prompt."""
    if not sample.messages:
        return sample.answer + END_OF_TEXT
    return written(sample.answer, sample.thought, sample.thinking)


def parts(sample: Sample) -> list[tuple[str, bool]]:
    """Cut a sample into pieces of text that are read (false) or learned (true)."""
    if sample.drill:
        return list(sample.drill)
    found = [(prompt(sample), False)] if sample.messages else []
    found.append((target(sample), True))
    for later in sample.follow:
        content = later.message["content"]
        if later.message["role"] == "tool":
            content = f"<tool_response>\n{content}\n</tool_response>"
        opening = f"\n{START}user\n{content}{END}\n{START}assistant\n"
        found.append((opening + ("" if later.thinking else NO_THINKING), False))
        found.append((written(later.answer, later.thought, later.thinking), True))
    return found


def encode(tokenizer: Tokenizer, samples: Sequence[Sample]) -> list[Encoded]:
    """Encode samples; a token of a long answer counts less, the answer as a whole more.

    A plain text is learned from its second token on.
    """
    cut = [parts(sample) for sample in samples]
    texts = [text for pieces in cut for text, _ in pieces]
    pieces_ids = iter(tokenizer.encode_batch_fast(texts, add_special_tokens=False))
    found = []
    for pieces in cut:
        ids: list[int] = []
        weights: list[float] = []
        for _, learn in pieces:
            more = next(pieces_ids).ids
            ids += more
            weights += [len(more) ** -0.5 if learn else 0.0] * len(more)
        weights[0] = 0.0
        found.append(Encoded(ids, weights))
    return found
