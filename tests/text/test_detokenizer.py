"""Deltas: never half a character, and together what decoding at once gives."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders

from helexa.text.decoders import parse_decoder
from helexa.text.detokenizer import Detokenizer
from helexa.text.tokenizer import Tokenizer
from tests.text import builders
from tests.text.builders import quick
from tests.waiting import least_s

ID_LISTS = st.lists(st.integers(0, 420), max_size=30)


def deltas(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """One delta per id, then the flush."""
    detokenizer = Detokenizer(tokenizer)
    return [*(detokenizer.push([token_id]) for token_id in ids), detokenizer.flush()]


def byte_runs_are_whole(backend: tokenizers.Tokenizer, ids: Sequence[int]) -> bool:
    """Whether no run of byte pieces holds a good character beside bad bytes."""
    run = b""
    for token_id in [*ids, -1]:
        piece = backend.id_to_token(token_id) if token_id >= 0 else None
        if piece is not None and piece.startswith("<0x"):
            run += bytes([int(piece[3:5], 16)])
            continue
        if token_id >= 0 and piece is None:
            continue
        text = run.decode("utf-8", "ignore")
        if text and text.encode() != run:
            return False
        run = b""
    return True


@quick
@given(ids=ID_LISTS)
def test_e076_random_byte_level_ids_decode_as_the_library_does(ids: list[int]) -> None:
    tokenizer = Tokenizer(LIBRARY["byte level"])
    expected = LIBRARY["byte level"].decode(ids)

    assert "".join(deltas(tokenizer, ids)) == expected
    assert tokenizer.decode(ids) == expected


@quick
@given(ids=ID_LISTS)
def test_e076_random_byte_fallback_ids_decode_as_they_stream(
    ids: list[int], byte_fallback: Tokenizer
) -> None:
    assert "".join(deltas(byte_fallback, ids)) == byte_fallback.decode(ids)


@quick
@given(ids=ID_LISTS)
def test_e076_random_byte_fallback_ids_decode_as_the_library_does_unless_a_run_is_half_bad(
    ids: list[int], byte_fallback: Tokenizer
) -> None:
    backend = LIBRARY["llama"]
    kept = [i for i in ids if i not in byte_fallback.special_ids]

    if byte_runs_are_whole(backend, kept):
        assert byte_fallback.decode(ids) == backend.decode(ids)


def test_a_half_bad_byte_run_keeps_its_good_characters(byte_fallback: Tokenizer) -> None:
    ids = [byte_fallback.token_to_id(f"<0x{byte:02X}>") or 0 for byte in "é".encode() + b"\xe4"]

    assert byte_fallback.decode(ids) == "é\ufffd"


LIBRARY = {
    "byte level": builders.train_byte_level(added=(*builders.MARKERS, "žlu ť", "ů")),
    "llama": builders.train_byte_fallback(),
    "gemma": builders.train_byte_fallback(
        decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    ),
    "metaspace": builders.train_byte_fallback(
        decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    ),
    "metaspace, never prepended": builders.train_byte_fallback(
        decoders.Metaspace(prepend_scheme="never"), prepend_scheme="never"
    ),
    "strip each piece": builders.train_byte_fallback(decoders.Strip("e", 1, 0)),
    "strip two": builders.train_byte_fallback(
        decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 2, 0)])
    ),
    "regex": builders.train_byte_fallback(decoders.Replace(tokenizers.Regex("[a-c▁]+"), "_")),
    "word piece": builders.train_byte_fallback(decoders.WordPiece(prefix="▁", cleanup=False)),
}


@quick
@given(text=st.text(alphabet="ab e,Hello你🙂ů▁\n", max_size=20))
@pytest.mark.parametrize("kind", list(LIBRARY))
def test_texts_stream_as_the_library_decodes_them(kind: str, text: str) -> None:
    backend = LIBRARY[kind]
    ids = backend.encode(text, add_special_tokens=False).ids

    assert "".join(deltas(Tokenizer(backend), ids)) == backend.decode(ids)


def test_trailing_strip_holds_back_what_may_be_cut() -> None:
    config = {
        "type": "Sequence",
        "decoders": [{"type": "Fuse"}, {"type": "Strip", "content": "!", "start": 0, "stop": 2}],
    }
    decoder = parse_decoder(config, "".join)

    assert decoder.push("a!!b!") + decoder.push("!!") + decoder.flush() == "a!!b!"


def test_strip_before_fusing_cuts_each_piece() -> None:
    config = {"type": "Strip", "content": "!", "start": 1, "stop": 1}
    decoder = parse_decoder(config, "".join)

    assert [decoder.push(piece) for piece in ("!!a!!", "!", "b")] == ["!a!", "", "b"]


def test_pieces_without_a_decoder_are_joined_with_spaces() -> None:
    decoder = parse_decoder(None, "".join)

    assert decoder.push("a") + decoder.push("b") + decoder.flush() == "a b"


@pytest.mark.parametrize("kind", ["byte level", "llama", "gemma", "metaspace"])
@pytest.mark.parametrize("char", ["🙂", "你"], ids=["emoji", "cjk"])
def test_e076_a_character_comes_whole_with_its_last_byte(kind: str, char: str) -> None:
    tokenizer = Tokenizer(LIBRARY[kind])
    names = (
        [next(p for p in map(tokenizer.piece, range(300)) if p and of_byte(tokenizer, p) == byte)
         for byte in char.encode()]
        if kind == "byte level"
        else [f"<0x{byte:02X}>" for byte in char.encode()]
    )  # fmt: skip
    ids = [tokenizer.token_to_id(name) or 0 for name in names]

    assert deltas(tokenizer, ids) == [*[""] * (len(ids) - 1), char, ""]


def of_byte(tokenizer: Tokenizer, piece: str) -> int | None:
    """The byte that a piece stands for, if it is a single one."""
    raw = tokenizer.id_to_bytes(tokenizer.token_to_id(piece) or 0)
    return raw[0] if len(raw) == 1 else None


def test_e076_a_cut_character_comes_with_the_flush(byte_level: Tokenizer) -> None:
    ids = byte_level.encode("ok 🙂")[:-1]

    *streamed, flushed = deltas(byte_level, ids)

    assert "".join(streamed) == "ok "
    assert flushed == "\ufffd"


@quick
@given(text=st.text(max_size=30))
def test_e076_no_replacement_character_inside_good_text(text: str, byte_level: Tokenizer) -> None:
    text = text.replace("\ufffd", "")

    assert "\ufffd" not in "".join(deltas(byte_level, byte_level.encode(text)))


def test_a_flush_does_not_end_the_text(byte_fallback: Tokenizer) -> None:
    detokenizer = Detokenizer(byte_fallback)
    hello = byte_fallback.token_to_id("▁Hello") or 0

    assert detokenizer.push([hello]) + detokenizer.flush() == "Hello"
    assert detokenizer.push([hello]) == " Hello"


def test_a_token_costs_the_same_in_a_long_text(byte_level: Tokenizer) -> None:
    ids = byte_level.encode("Hello world ") * 4000
    detokenizer = Detokenizer(byte_level)

    def push() -> None:
        for token_id in ids:
            detokenizer.push_one(token_id)

    first = least_s(push, 1)
    push()
    push()
    assert least_s(push) < 5 * first + 0.05
