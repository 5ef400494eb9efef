"""E-058: an answer ends on every token that anything in the model folder calls an end."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from helexa.engine.checkpoint.files import TokenizerFiles
from helexa.engine.end_tokens import end_token_ids
from helexa.engine.params import GenerationDefaults


@dataclass(frozen=True)
class Config:
    vocab_size: int = 100
    eos_token_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Folder:
    """As much of a checkpoint as says how answers end."""

    folder: Path
    config: Config

    def tokenizer_files(self) -> TokenizerFiles:
        return TokenizerFiles.of(self.folder)


def ends(
    folder: Path,
    files: dict[str, Any],
    config: tuple[int, ...] = (),
    defaults: tuple[int, ...] = (),
) -> set[int]:
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name).write_text(text, encoding="utf-8")
    checkpoint: Any = Folder(folder, Config(eos_token_ids=config))
    return set(end_token_ids(checkpoint, GenerationDefaults(eos_token_ids=defaults)))


def test_E058_configs_and_generation_defaults_are_joined(tmp_path: Path) -> None:
    assert ends(tmp_path, {}, config=(1, 2), defaults=(2, 3)) == {1, 2, 3}


def test_E058_ids_outside_the_vocabulary_are_left_out(tmp_path: Path) -> None:
    assert ends(tmp_path, {}, config=(99, 100), defaults=(5000,)) == {99}


@pytest.mark.parametrize(
    "eos", ["</s>", {"content": "</s>", "lstrip": False}], ids=["text", "object"]
)
def test_E058_the_tokenizers_own_end_and_the_usual_markers(tmp_path: Path, eos: object) -> None:
    added = {
        "4": {"content": "</s>"},
        "5": {"content": "<|im_end|>"},
        "6": {"content": "<|im_start|>"},
        "7": {"content": "<|endoftext|>"},
    }
    settings = {"eos_token": eos, "added_tokens_decoder": added}
    assert ends(tmp_path, {"tokenizer_config.json": settings}) == {4, 5, 7}


def test_E058_an_end_that_only_the_special_tokens_map_names(tmp_path: Path) -> None:
    files: dict[str, Any] = {
        "special_tokens_map.json": {"eos_token": {"content": "</s>"}},
        "tokenizer_config.json": {"added_tokens_decoder": {"4": {"content": "</s>"}}},
    }
    assert ends(tmp_path, files) == {4}
    files["tokenizer_config.json"]["eos_token"] = "<|other|>"
    assert ends(tmp_path, files) == set()


def test_E058_tokens_that_only_the_tokenizer_lists(tmp_path: Path) -> None:
    added = [{"id": 8, "content": "<|eot_id|>"}, {"id": 9, "content": "<|x|>"}]
    files = {
        "tokenizer_config.json": {"eos_token": None},
        "tokenizer.json": {"added_tokens": added},
    }
    assert ends(tmp_path, files) == {8}


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"added_tokens_decoder": [], "eos_token": 3}', "[" * 10**5],
    ids=["empty", "cut", "list", "types", "deep"],
)
def test_E058_a_file_that_makes_no_sense_says_nothing(tmp_path: Path, text: str) -> None:
    assert ends(tmp_path, {"tokenizer_config.json": text}, config=(1,)) == {1}


def test_E058_a_short_list_of_special_tokens_does_not_hide_the_tokenizers(tmp_path: Path) -> None:
    files = {
        "tokenizer_config.json": {
            "eos_token": "<|im_end|>",
            "added_tokens_decoder": {"1": {"content": "<|endoftext|>"}},
        },
        "tokenizer.json": {"added_tokens": [{"id": 7, "content": "<|im_end|>"}]},
    }
    assert ends(tmp_path, files) == {1, 7}


@pytest.mark.parametrize("vocab", [{"a": 0, ".": 13}, [["a", 0.0], [".", -1.0]]])
def test_E058_an_end_that_is_an_ordinary_piece(tmp_path: Path, vocab: Any) -> None:
    files = {
        "tokenizer_config.json": {"eos_token": "."},
        "tokenizer.json": {"model": {"vocab": vocab}},
    }
    assert ends(tmp_path, files) == {13 if isinstance(vocab, dict) else 1}
