"""What GGUF's keys say of a tokenizer.json, and what they cannot."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import tokenizers

from helexa.engine.checkpoint.files import TokenizerFiles
from helexa.text.gguf_tokenizer import WHOLE
from helexa.text.gguf_vocabulary import gguf_vocabulary
from helexa.text.tokenizer import Tokenizer
from tests.text.builders import LLAMA3, train_llama3

AT = "tokenizer.ggml."
TEXTS = (
    "Hello 1234567 world",
    "it's 2024!! e\u0301 12345",
    "  x\n\n  y 99999",
    "",
    "你好<|eot_id|>a",
)
Raw = dict[str, Any]


@pytest.fixture(scope="module")
def raw() -> Raw:
    return train_llama3()


def vocabulary(raw: Raw) -> tuple[Raw, list[str]]:
    found, untold = gguf_vocabulary(json.dumps(raw), 520, "m")
    return dict(found), untold


def ids(metadata: Raw, text: str) -> list[int]:
    return Tokenizer.from_files(TokenizerFiles(gguf=metadata), source="m.gguf").encode(text)


def changed(raw: Raw, change: Callable[[Raw], object]) -> Raw:
    copy: Raw = json.loads(json.dumps(raw))
    change(copy)
    return copy


def test_a_llama_3_tokenizer_is_said_in_full(raw: Raw) -> None:
    found, untold = vocabulary(raw)
    theirs = tokenizers.Tokenizer.from_str(json.dumps(raw))
    bos = theirs.token_to_id(LLAMA3[0])
    assert (found[f"{AT}pre"], found[f"{AT}add_bos_token"]) == ("llama-bpe", True)
    assert found[f"{AT}bos_token_id"] == bos
    assert WHOLE not in found and untold == []
    for text in TEXTS:
        assert ids(found, text) == theirs.encode(text).ids, text
    assert ids(found, "a")[0] == bos


def sided(raw: Raw, *single: str) -> None:
    """A template that puts tokens around a text, which is `$`."""
    template = raw["post_processor"]["processors"][1]
    template["single"] = [
        {"Sequence": {"id": "A", "type_id": 0}}
        if name == "$"
        else {"SpecialToken": {"id": name, "type_id": 0}}
        for name in single
    ]
    known = {token["content"]: token["id"] for token in raw["added_tokens"]}
    template["special_tokens"] = {
        name: {"id": name, "ids": [known[name]], "tokens": [name]} for name in single if name != "$"
    }


def test_a_token_after_a_text_is_said(raw: Raw) -> None:
    both = changed(raw, lambda r: sided(r, LLAMA3[0], "$", LLAMA3[1]))
    found, untold = vocabulary(both)
    theirs = tokenizers.Tokenizer.from_str(json.dumps(both))
    assert (found[f"{AT}add_eos_token"], untold) == (True, [])
    assert ids(found, "Hello")[-1] == theirs.token_to_id(LLAMA3[1])
    assert ids(found, "Hello") == theirs.encode("Hello").ids


@pytest.mark.parametrize(
    ("change", "pre", "told"),
    [
        (lambda r: r["model"].update(ignore_merges=False), "default", ["cut text"]),
        (lambda r: r.update(normalizer={"type": "NFKC"}), "default", ["cut text"]),
        (
            lambda r: r["pre_tokenizer"]["pretokenizers"][1].update(add_prefix_space=True),
            "default",
            ["cut text"],
        ),
        (lambda r: sided(r, LLAMA3[0], LLAMA3[1], "$"), "llama-bpe", ["before and after"]),
        (lambda r: r["added_tokens"][0].update(lstrip=True), "llama-bpe", ["beside special"]),
        (
            lambda r: (r.update(normalizer={"type": "NFC"}), sided(r, "$", *LLAMA3[:2])),
            "default",
            ["cut text", "before and after"],
        ),
    ],
    ids=["merges", "normalizer", "prefix", "two before", "strip", "several"],
)
def test_what_gguf_cannot_say_is_told_and_goes_in_whole(
    change: Callable[[Raw], object], pre: str, told: list[str], raw: Raw
) -> None:
    odd = changed(raw, change)
    found, untold = vocabulary(odd)
    assert found[f"{AT}pre"] == pre
    assert len(untold) == len(told)
    assert all(part in sentence for part, sentence in zip(told, untold, strict=True))
    theirs = tokenizers.Tokenizer.from_str(json.dumps(odd))
    for text in TEXTS:
        assert ids(found, text) == theirs.encode(text).ids, text
