"""Text to ids and back, and what is said of broken tokenizer files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helexa.errors import CheckpointError, InvalidRequest
from helexa.text.chat_template import ChatTemplate
from helexa.text.tokenizer import Tokenizer
from tests.text import builders
from tests.text.builders import quick


@quick
@given(text=st.text())
def test_any_text_survives_a_byte_level_round_trip(text: str, byte_level: Tokenizer) -> None:
    assert byte_level.decode(byte_level.encode(text)) == text


@quick
@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_bytes_of_ids_add_up_to_the_text(text: str, byte_level: Tokenizer) -> None:
    assert b"".join(map(byte_level.id_to_bytes, byte_level.encode(text))).decode() == text


def test_bytes_of_single_ids(byte_fallback: Tokenizer, byte_level: Tokenizer) -> None:
    def of(tokenizer: Tokenizer, piece: str) -> bytes:
        token_id = tokenizer.token_to_id(piece)
        assert token_id is not None
        return tokenizer.id_to_bytes(token_id)

    assert of(byte_fallback, "<0xF0>") == b"\xf0"
    assert of(byte_fallback, "▁Hello") == b" Hello"
    assert of(byte_level, "<think>") == b"<think>"
    assert of(byte_level, builders.END) == builders.END.encode()
    assert byte_level.id_to_bytes(999_999) == b""


def test_special_tokens_are_skipped_on_demand(byte_level: Tokenizer) -> None:
    ids = byte_level.encode(f"done{builders.END}")

    assert byte_level.decode(ids) == "done"
    assert byte_level.decode(ids, skip_special_tokens=False) == f"done{builders.END}"


def test_encode_batch_equals_encode(byte_fallback: Tokenizer) -> None:
    texts = ["Hello world", "", "kůň"]

    assert byte_fallback.encode_batch(texts) == [byte_fallback.encode(text) for text in texts]


def test_names_of_special_tokens(byte_fallback: Tokenizer) -> None:
    assert byte_fallback.eos_token == "</s>"
    assert byte_fallback.eos_token_id == byte_fallback.token_to_id("</s>")
    assert byte_fallback.bos_token_id == byte_fallback.token_to_id("<s>")


@pytest.mark.parametrize("batch", [False, True], ids=["one", "batch"])
def test_half_a_surrogate_pair_is_refused(batch: bool, byte_level: Tokenizer) -> None:
    with pytest.raises(InvalidRequest, match="character 2") as caught:
        byte_level.encode_batch(["ok", "ab\ud83d"]) if batch else byte_level.encode("ab\ud83d")

    assert caught.value.param == "prompt"


@pytest.mark.parametrize("bad", [-1, 2**70, "x"])
def test_what_is_not_an_id_is_refused(bad: object, byte_level: Tokenizer) -> None:
    with pytest.raises(InvalidRequest, match="not a token id"):
        byte_level.decode([bad])  # type: ignore[list-item]  # the wrong type is the test


def test_ids_without_a_token_are_passed_over_and_not_remembered(byte_level: Tokenizer) -> None:
    known = byte_level.encode("ab")
    assert byte_level.decode([known[0], *range(10**6, 10**6 + 50), known[1]]) == "ab"
    assert byte_level.id_to_bytes(10**6) == b""
    assert not any(id >= 10**6 for id in byte_level._pieces)


def test_truncation_and_padding_of_the_file_are_ignored() -> None:
    backend = builders.train_byte_level()
    backend.enable_truncation(2)
    backend.enable_padding(length=9)

    tokenizer = Tokenizer(backend)

    assert tokenizer.decode(tokenizer.encode("Hello world, hello")) == "Hello world, hello"


def test_a_folder_with_its_special_tokens(tmp_path: Path) -> None:
    builders.train_byte_level().save(str(tmp_path / "tokenizer.json"))
    config = {
        "eos_token": {"content": "</a>", "lstrip": False},
        "pad_token": None,
        "model_max_length": 5,
        "extra_special_tokens": {"image_token": "<img>"},
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "special_tokens_map.json").write_text('{"eos_token": "</b>", "bos_token": "<b>"}')

    tokenizer = Tokenizer.from_folder(tmp_path)

    assert tokenizer.special_tokens == {
        "bos_token": "<b>",
        "eos_token": "</a>",
        "image_token": "<img>",
    }


def test_a_damaged_tokenizer_config_counts_as_none(tmp_path: Path) -> None:
    builders.train_byte_level().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text("{broken")

    assert Tokenizer.from_folder(tmp_path).special_tokens == {}


def test_a_missing_tokenizer_names_the_folder_and_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="save_pretrained") as caught:
        Tokenizer.from_folder(tmp_path)

    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("content", [b"{", b"{}", b"\xff\xfe", b'{"model": {"type": "Nope"}}'])
def test_a_damaged_tokenizer_names_the_file(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)

    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        Tokenizer.from_folder(tmp_path)


def test_e074_a_rendered_prompt_has_one_bos(byte_fallback: Tokenizer) -> None:
    template = ChatTemplate(
        {"default": "{{ bos_token }}{{ messages[0].content }}"}, byte_fallback.special_tokens
    )
    bos = byte_fallback.bos_token_id

    rendered = template.render([{"role": "user", "content": "Hello"}])

    assert byte_fallback.encode(rendered, add_special_tokens=False).count(bos) == 1
    assert byte_fallback.encode("Hello").count(bos) == 1
