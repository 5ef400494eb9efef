"""Grading of one generated answer."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from tools.tiny.corpus.base import Check, Sample
from tools.tiny.tokenizer import END, END_OF_TEXT

THOUGHT = re.compile(r"^<think>\n(?P<thought>.+?)\n</think>\n\n(?P<answer>.*)$", re.DOTALL)
CALL = re.compile(r"^<tool_call>\n(?P<body>.+)\n</tool_call>$")


@dataclass(frozen=True, slots=True)
class Grade:
    """What was right about one output."""

    answer: bool
    thinking: bool
    stopped: bool

    @property
    def passed(self) -> bool:
        """All of it."""
        return self.answer and self.thinking and self.stopped


def grade(sample: Sample, output: str) -> Grade:
    """Grade `output`, the generated text with the token that ended it, if one did."""
    stopped = output.endswith((END, END_OF_TEXT))
    text = output.removesuffix(END).removesuffix(END_OF_TEXT)
    found = THOUGHT.match(text)
    if sample.thinking and sample.messages:
        answer = found["answer"] if found else text
        return Grade(matches(sample.check, answer), found is not None, stopped)
    return Grade(matches(sample.check, text), "think>" not in text, stopped)


def matches(check: Check, answer: str) -> bool:
    """Say whether an answer meets its check."""
    if check.kind == "exact":
        return answer.strip() == check.value[0]
    if check.kind == "call":
        found = CALL.match(answer.strip())
        return found is not None and _same_call(found["body"], check.value[0])
    if "<tool_call>" in answer:
        return False
    if check.kind == "story":
        return (
            answer.endswith("The end.") and 25 <= len(answer.split()) <= 150 and _has(check, answer)
        )
    return _has(check, answer)


def _has(check: Check, answer: str) -> bool:
    """Find every word as a whole word."""
    return all(
        re.search(rf"(?<!\w){re.escape(word)}(?!\w)", answer, re.IGNORECASE) for word in check.value
    )


def _same_call(body: str, wanted: str) -> bool:
    """Compare two calls as JSON values, types included."""
    try:
        found: Any = json.loads(body)
    except ValueError:
        return False
    return json.dumps(found, sort_keys=True) == json.dumps(json.loads(wanted), sort_keys=True)
