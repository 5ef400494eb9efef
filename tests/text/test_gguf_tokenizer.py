"""Tokenizers from the metadata of GGUF files give the ids of the tokenizer.json they came from."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import gguf
import pytest
import regex
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

import helexa
from helexa.engine.checkpoint.files import TokenizerFiles
from helexa.engine.checkpoint.gguf_file import read_gguf
from helexa.errors import CheckpointError
from helexa.text.chat_template import ChatTemplate
from helexa.text.gguf_merges import merges_of_scores
from helexa.text.gguf_tokenizer import SPLITTINGS, gguf_special_tokens, gguf_tokenizer
from helexa.text.tokenizer import Tokenizer
from tests.engine.checkpoint.gguf_files import finish, write_tokenizer
from tests.text.builders import quick

TINY = Path(helexa.__file__).parent / "builtin/tiny"
PIECES = (
    *("Hello world", "the capital of France", "isn't IT'S we'LL", "12345 3.14", "x = f(y)[0];\n"),
    *(
        "    def g(a, b):\n\treturn a**b\n\n",
        "你好，世界。",
        "こんにちは",
        "안녕",
        "مرحبا",
        "Příliš žluťoučký",
    ),
    *(
        "e\u0301 o\u0308 \u0915\u094d\u0937",
        "🙂👩‍👩‍👧‍👦🏳️‍🌈",
        " ",
        "   ",
        "\n",
        "\r\n\r\n",
        "\t \t",
        "\u00a0\u2003",
        "\u200b",
    ),
    *("<|im_start|>user\n", "<|im_end|>", "<think>", "</think>\n\n", "<tool_call>", "<|im_", "|>"),
    *('{"name": "add", "arguments": {"a": 2}}', "\x00\x07", "ſ", "Ⅻ½", "ﬁ", "\U0001d54f", "�"),
)


def varied(count: int) -> list[str]:
    """Texts of everything that tokenizers treat in their own ways, always the same ones."""
    draw = random.Random(5)
    return ["".join(draw.choices(PIECES, k=draw.randint(1, 9))) for _ in range(count)]


@cache
def tiny_metadata(folder: Path) -> Mapping[str, Any]:
    """What a GGUF file of `tiny` says of its text layer."""
    writer = gguf.GGUFWriter(folder / "tiny.gguf", "qwen3")
    write_tokenizer(writer, TINY)
    metadata = read_gguf(finish(writer, folder / "tiny.gguf")).metadata
    return {name: value for name, value in metadata.items() if name.startswith("tokenizer.")}


@pytest.fixture
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    return tiny_metadata(tmp_path_factory.getbasetemp())


def built(metadata: Mapping[str, Any]) -> Tokenizer:
    return Tokenizer.from_files(TokenizerFiles(gguf=metadata), source="m.gguf")


def test_e031_ids_are_those_of_tokenizer_json(tiny: Mapping[str, Any]) -> None:
    ours, theirs = built(tiny), Tokenizer.from_folder(TINY)
    for text in varied(2000):
        ids = theirs.encode(text)
        assert ours.encode(text) == ids, text
        assert ours.decode(ids, skip_special_tokens=False) == theirs.decode(
            ids, skip_special_tokens=False
        )
    assert (ours.special_ids, ours.added_ids) == (theirs.special_ids, theirs.added_ids)
    assert ours.eos_token_id == theirs.eos_token_id
    assert ours.id_limit == theirs.id_limit


def test_the_template_comes_from_the_metadata(tiny: Mapping[str, Any]) -> None:
    chat = [{"role": "user", "content": "Hello!"}]
    rendered = [
        ChatTemplate.load(files, Tokenizer.from_files(files)).render(chat)
        for files in (TokenizerFiles(gguf=tiny), TokenizerFiles.of(TINY))
    ]
    assert rendered[0] == rendered[1]
    named = {"tokenizer.chat_template": "{{ 1 }}", "tokenizer.chat_template.tool_use": "{{ 2 }}"}
    template = ChatTemplate.load(TokenizerFiles(gguf=named), built(tiny))
    assert dict(template.sources) == {"default": "{{ 1 }}", "tool_use": "{{ 2 }}"}


def test_a_whole_tokenizer_json_in_the_metadata_counts_first(tiny: Mapping[str, Any]) -> None:
    whole = (TINY / "tokenizer.json").read_text("utf-8")
    assert gguf_tokenizer({**tiny, "tokenizer.huggingface.json": whole}, "m.gguf") == whole


# What the three patterns mean, in the terms of the `regex` package.
PATTERNS = {
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen35": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "llama-bpe": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
LETTERS = st.one_of(
    st.sampled_from("aZé家\u0301\u094d0٣½ \t\n\r\u00a0\u3000'sſtTlL.,!_{🙂\u200d"),
    # What has no meaning yet may have one in the newer tables of one of the two.
    st.characters(codec="utf-8", max_codepoint=0x2FFF, exclude_categories=["Cn"]),
)


@pytest.mark.parametrize("pre", PATTERNS)
@quick
@given(text=st.text(LETTERS, max_size=24))
def test_text_is_cut_as_the_pattern_says(pre: str, text: str) -> None:
    cut = tokenizers.pre_tokenizers.Split(tokenizers.Regex(SPLITTINGS[pre].pattern), "isolated")
    pieces = [piece for piece, _ in cut.pre_tokenize_str(text)]
    assert pieces == regex.findall(PATTERNS[pre], text)


def byte_level(pre: str | None, **changes: Any) -> dict[str, Any]:
    """A vocabulary of ASCII characters, a few merges, and three added tokens."""
    alphabet = [chr(i) for i in range(33, 127)] + ["Ġ", "Ċ", "Ì", "ģ", "Ã", "©"]
    merges = ["a b", "ab c", "1 2", "Ġ a", "Ã ©"]
    tokens = [*alphabet, *(merge.replace(" ", "") for merge in merges), "xyz"]
    types = [1] * len(tokens) + [3, 3, 4, 5]
    found = {
        "model": "gpt2",
        "pre": pre,
        "tokens": [*tokens, "<s>", "</s>", "<mark>", "[PAD]"],
        "token_type": types,
        "merges": merges,
        "bos_token_id": len(tokens),
        "eos_token_id": len(tokens) + 1,
    } | changes
    return {f"tokenizer.ggml.{name}": value for name, value in found.items()}


def pieces(metadata: Mapping[str, Any], text: str) -> list[str | None]:
    tokenizer = built(metadata)
    return [tokenizer.piece(id) for id in tokenizer.encode(text)]


def test_what_distinguishes_the_kinds_of_byte_level_bpe() -> None:
    assert pieces(byte_level("qwen2"), "abc12xyz") == ["abc", "1", "2", "x", "y", "z"]
    assert pieces(byte_level("llama-bpe"), "abc12xyz") == ["<s>", "abc", "12", "xyz"]
    assert pieces(byte_level("qwen2"), "e\u0301") == ["Ã©"]
    assert pieces(byte_level("llama-bpe"), "e\u0301")[1:] == ["e", "Ì", "ģ"]
    assert pieces(byte_level("qwen2"), "a<mark></s>") == ["a", "<mark>", "</s>"]
    assert pieces(byte_level("qwen2"), "[PAD]") == ["[", "P", "A", "D", "]"]


def test_what_is_put_around_a_text() -> None:
    both = byte_level("qwen2", add_bos_token=True, add_eos_token=True)
    assert pieces(both, "ab") == ["<s>", "ab", "</s>"]
    assert built(both).encode("ab", add_special_tokens=False) == built(both).encode("ab")[1:-1]
    assert pieces(byte_level("llama-bpe", add_bos_token=False), "ab") == ["ab"]
    assert gguf_special_tokens(both) == {"bos_token": "<s>", "eos_token": "</s>"}
    assert gguf_special_tokens(None) == {}


def sentence_piece(**changes: Any) -> dict[str, Any]:
    """A vocabulary with pieces of Latin letters and all bytes, the best piece first."""
    texts = ["▁hello", "▁he", "llo", "he", "ll", "lo", "▁h", "▁", *"helowrd", "or", "▁w"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *texts, "a▁b"]
    found = {
        "model": "llama",
        "tokens": tokens,
        "token_type": [2, 3, 3, *[6] * 256, *[1] * len(texts), 4],
        "scores": [0.0] * 259 + [-float(i) for i in range(len(texts) + 1)],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
    } | changes
    return {f"tokenizer.ggml.{name}": value for name, value in found.items()}


def merged(text: str, metadata: Mapping[str, Any]) -> list[str]:
    """SentencePiece's BPE written out: the neighbours that score highest are merged, left first."""
    at = "tokenizer.ggml."
    scores = dict(zip(metadata[f"{at}tokens"], metadata[f"{at}scores"], strict=True))
    symbols = list(text.replace(" ", "▁"))
    while True:
        pairs = [a + b for a, b in pairwise(symbols)]
        found = [(-scores[pair], i) for i, pair in enumerate(pairs) if pair in scores]
        if not found:
            break
        _, i = min(found)
        symbols[i : i + 2] = [pairs[i]]
    known = [s if s in scores else [f"<0x{b:02X}>" for b in s.encode()] for s in symbols]
    return [piece for item in known for piece in ([item] if isinstance(item, str) else item)]


@quick
@given(text=st.text("helowrdé家 \n", max_size=16))
def test_sentence_piece_merges_by_score(text: str) -> None:
    metadata = sentence_piece()
    prefixed = f" {text}" if text else ""
    assert pieces(metadata, text) == ["<s>", *merged(prefixed, metadata)]
    without = sentence_piece(add_space_prefix=False, add_bos_token=False)
    assert pieces(without, text) == merged(text, without)
    assert built(metadata).decode(built(metadata).encode(text)) == text


def test_spaces_in_added_tokens_are_spaces() -> None:
    assert pieces(sentence_piece(), "hello</s>a b") == ["<s>", "▁hello", "</s>", "a b"]


def test_merges_come_in_the_order_of_scores() -> None:
    scores = {"a": -9.0, "b": -9.5, "ab": -2.0, "aba": -1.0, "ba": -3.0}
    expected = [["ab", "a"], ["a", "ba"], ["a", "b"], ["b", "a"]]
    assert merges_of_scores(scores) == expected


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        ({}, "`tokenizer.ggml.tokens` is absent"),
        (byte_level("qwen2", model="t5"), "`tokenizer.ggml.model` is 't5'"),
        (byte_level("deepseek-r1"), "`tokenizer.ggml.pre` is 'deepseek-r1'"),
        (byte_level(None), "`tokenizer.ggml.pre` is None"),
        (byte_level("qwen2", tokens=[1]), "`tokenizer.ggml.tokens` is no list"),
        (byte_level("qwen2", token_type=[1]), "`tokenizer.ggml.token_type` has 1 entries"),
        (byte_level("qwen2", tokens=["a", "a"], token_type=[1, 1]), "holds a token twice"),
        (byte_level("qwen2", tokens=["a" * 2000], token_type=[1]), "more than 1024 characters"),
        (byte_level("qwen2", merges=["ab"]), "`tokenizer.ggml.merges` holds an entry"),
        (byte_level("qwen2", merges=["q q"]), "is not a tokenizer that can be read"),
        (byte_level("llama-bpe", bos_token_id=None), "is absent, but to be added"),
        (byte_level("llama-bpe", bos_token_id=999), "`tokenizer.ggml.bos_token_id` is 999"),
        (byte_level("qwen2", add_bos_token=1), "is neither true nor false"),
        (sentence_piece(scores=[0.5]), "`tokenizer.ggml.scores` has 1 entries"),
        (sentence_piece(remove_extra_whitespaces=True), "remove_extra_whitespaces` is true"),
        (sentence_piece(precompiled_charsmap=[1]), "precompiled_charsmap` is there"),
    ],
)
def test_metadata_that_make_no_tokenizer_are_named(metadata: dict[str, Any], told: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        built(metadata)
    assert told in str(caught.value)
    assert "m.gguf" in str(caught.value)


def test_a_tokenizer_json_beside_the_file_counts_first(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text((TINY / "tokenizer.json").read_text("utf-8"))
    ends = {"tokenizer.ggml.tokens": ["a", "</s>"], "tokenizer.ggml.eos_token_id": 1}
    tokenizer = Tokenizer.from_files(TokenizerFiles(tokenizer_json=path, gguf=ends))
    assert tokenizer.token_to_id("<|im_end|>") == 1017
    assert tokenizer.eos_token == "</s>"
    assert json.loads(path.read_text())["model"]["type"] == "BPE"
