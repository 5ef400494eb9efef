"""Tokenizers for the tests of the text layer, trained once."""

from __future__ import annotations

import pytest

from helexa.text.tokenizer import Tokenizer
from tests.text import builders


@pytest.fixture(scope="session")
def byte_level() -> Tokenizer:
    """GPT-2 style, with reasoning and tool markers."""
    return Tokenizer(builders.train_byte_level(), {"eos_token": builders.END})


@pytest.fixture(scope="session")
def unmarked() -> Tokenizer:
    """GPT-2 style, without any marker."""
    return Tokenizer(builders.train_byte_level(added=()), {"eos_token": builders.END})


@pytest.fixture(scope="session")
def byte_fallback() -> Tokenizer:
    """SentencePiece style, decoding as Llama 2 does."""
    return Tokenizer(builders.train_byte_fallback(), {"bos_token": "<s>", "eos_token": "</s>"})
