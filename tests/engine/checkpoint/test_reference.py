"""What a model argument means, and how it is printed back."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helexa.engine.checkpoint.reference import (
    Builtin,
    GGUFFile,
    HubId,
    LocalFolder,
    parse_reference,
)
from helexa.errors import PreflightError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a:o/n", HubId("a", "o", "n")),
        ("o/n", HubId(None, "o", "n")),
        ("huggingface:Qwen/Qwen3-0.6B", HubId("huggingface", "Qwen", "Qwen3-0.6B")),
        ("builtin:helexa/tiny", Builtin("helexa/tiny")),
    ],
)
def test_e023_ids_are_parsed_and_printed_back(text: str, expected: object) -> None:
    assert parse_reference(text) == expected
    assert str(parse_reference(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "  ", ":o/n", "x", "a/b:c/d", "/n", "o/", "o/n:x", "o/..", "./n", "../n", "a:b:c/d"),
        *("a/b/c", "o/n n", "o\\n/x", "s:x", "s:/x", "~/nothing-there", "o/n.gguf/x"),
        *("~no-such-user/x", "o/\0"),
    ],
)
def test_e023_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(PreflightError) as caught:
        parse_reference(text)
    assert caught.value.kind == "invalid_model_id"
    assert repr(text) in caught.value.message


@given(st.text(max_size=20) | st.text("ab:/.~\\ ", max_size=8))
def test_any_text_means_something_or_is_refused(text: str) -> None:
    with suppress(PreflightError):
        reference = parse_reference(text)
        assert isinstance(reference, LocalFolder) or str(reference) == text or text == "tiny"


def test_names_too_long_for_the_disk() -> None:
    with pytest.raises(PreflightError):
        parse_reference(f"{'o' * 5000}/n/x")


def test_tiny_is_built_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    assert parse_reference("tiny") == Builtin("helexa/tiny")
    assert str(parse_reference("tiny")) == "builtin:helexa/tiny"
    assert parse_reference("./tiny") == LocalFolder(Path("tiny"))


def test_what_exists_wins_over_an_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org/name").mkdir(parents=True)
    (tmp_path / "org/m.gguf").write_bytes(b"")
    assert parse_reference("org/name") == LocalFolder(Path("org/name"))
    assert parse_reference(tmp_path) == LocalFolder(tmp_path)
    assert parse_reference("org/m.gguf") == GGUFFile(Path("org/m.gguf"))
    assert str(parse_reference("org/m.gguf")) == "org/m.gguf"


def test_a_path_is_never_a_hub_id(tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match="no existing folder"):
        parse_reference(Path("org/name"))
    with pytest.raises(PreflightError, match="no existing folder"):
        parse_reference(str(tmp_path / "absent"))
