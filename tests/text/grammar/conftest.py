"""The built-in model's tokenizer, and grammars for it."""

from __future__ import annotations

from pathlib import Path

import pytest

import helexa
from helexa.text.grammar.factory import GrammarFactory
from helexa.text.parsing.markers import Markers, probe_markers
from helexa.text.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def tiny() -> Tokenizer:
    return Tokenizer.from_folder(Path(helexa.__file__).parent / "builtin" / "tiny")


@pytest.fixture(scope="session")
def markers(tiny: Tokenizer) -> Markers:
    return probe_markers(tiny)


@pytest.fixture(scope="session")
def factory(tiny: Tokenizer, markers: Markers) -> GrammarFactory:
    return GrammarFactory(tiny, markers)
