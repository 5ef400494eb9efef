"""Files that `helexa quantize` writes, in llama.cpp: the same tokens from text, and the same text.

Needs llama-cpp-python, which compiles C++ when it is installed.
"""

from __future__ import annotations

import json
import random
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest
import torch

import helexa
from helexa.engine.checkpoint.checkpoint import open_checkpoint
from helexa.engine.loading import load_model
from helexa.quantising import quantise_to_file
from helexa.text.tokenizer import Tokenizer
from tests.engine.models.families import Family, hybrid, prompt
from tests.test_quantising import with_tokenizer
from tests.text.builders import train_llama3

llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
pytestmark = pytest.mark.timeout(300)

QUANTS = ("f32", "f16", "q8_0", "q6_k", "q5_k", "q5_0", "q4_k", "q4_0")
TOKENS = 32
CLEAR = 0.5
"""By how much the best logit is ahead where two ways of rounding must agree."""
TIE = 0.02
"""The same for products in float32, whose errors are of another order."""
END = 1017
QUESTIONS = (
    "What is 17 plus 25?",
    "Hello! Who are you?",
    "Name three colours.",
    "Repeat this word: lantern",
    "What is 8 times 7?",
)


PARTS = [
    *(
        "the",
        "Hello",
        "don't",
        "WE'RE",
        "naïve",
        "Straße",
        "x_y",
        "def f(a):",
        "http://a.b/c?d=1",
    ),
    *(
        "  ",
        "\n",
        "\n\n",
        "\t",
        " ",
        "   ",
        "\r\n",
        "12345",
        "3.14",
        "1,000",
        "!?",
        "...",
        "--",
    ),
    *(
        "你好世界",
        "こんにちは",
        "한국어",
        "Привет",
        "مرحبا",
        "שלום",
        "हिन्दी",
        "🙂",
        "👩‍👩‍👧",
        "é",
        "e\u0301",
    ),
    *('{"a": [1, 2]}', "<tag>", "</tag>", "$x^2$", "#", "@", "\\n", "'s", "'LL", "ﬁ", "\u00a0"),
]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The built-in model as a file in a format, written when first asked for."""
    folder = tmp_path_factory.mktemp("gguf")
    return cache(lambda quant: quantise_to_file("tiny", folder / f"{quant}.gguf", quant).path)


def theirs(path: Path, **options: Any) -> Any:
    return llama_cpp.Llama(str(path), n_ctx=1024, verbose=False, logits_all=False, **options)


def prompts(path: Path) -> list[list[int]]:
    with closing(open_checkpoint(path)) as checkpoint:
        tokenizer = Tokenizer.from_files(checkpoint.tokenizer_files())
    made = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    return [list(tokenizer.encode(made.format(question))) for question in QUESTIONS]


@pytest.mark.parametrize("quant", QUANTS)
def test_greedy_tokens_are_the_same(quant: str, file: Any) -> None:
    """Up to where two tokens are nearly as likely: llama.cpp rounds activations to 8 bits."""
    path = file(quant)
    model, llama = load_model(path), theirs(path)
    compared = 0
    for ids in prompts(path):
        llama.reset()
        found = []
        for token in llama.generate(ids, temp=0.0, repeat_penalty=1.0):
            found.append(token)
            if len(found) == TOKENS:
                break
        logits = model.compute_logits([*ids, *found])[len(ids) - 1 : -1]
        best = logits.topk(2)
        for expected, (first, second), id in zip(
            found, best.values, best.indices[:, 0], strict=True
        ):
            if first - second < CLEAR:
                continue
            assert int(id) == expected
            compared += 1
    assert compared > len(QUESTIONS) * TOKENS // 2
    llama.close()


def varied(count: int) -> list[str]:
    """Strings of words, spaces, signs, digits, scripts and emoji."""
    chance = random.Random(3)
    return ["".join(chance.choices(PARTS, k=chance.randint(1, 12))) for _ in range(count)]


@pytest.mark.parametrize("quant", ["f32", "f16", "q8_0"])
def test_each_by_itself_writes_the_same_tokens(quant: str, file: Any) -> None:
    """Free-running: each goes on from its own tokens. Only a tie may end that, behind an answer."""
    path = file(quant)
    llama, model, whole = theirs(path), load_model(path, dtype="float32"), 0
    with helexa.LLM(path, dtype="float32") as llm:
        for ids in prompts(path):
            llama.reset()
            stream = llama.generate(ids, temp=0.0, repeat_penalty=1.0)
            expected = [token for token, _ in zip(stream, range(TOKENS), strict=False)]
            answer = llm.generate(ids, temperature=0, max_tokens=TOKENS, ignore_eos=True)
            found = list(answer.token_ids)
            logits = model.compute_logits([*ids, *found])[len(ids) - 1 : -1]
            best = logits.topk(2).values
            ties = (best[:, 0] - best[:, 1] < TIE).nonzero().flatten().tolist()
            alike = ties[0] if ties else TOKENS
            assert alike > found.index(END)
            assert found[:alike] == expected[:alike]
            whole += alike == TOKENS
    assert whole >= len(QUESTIONS) - 1
    llama.close()


RANDOM = (
    Family("llama", "llama"),
    Family("qwen3_moe", "qwen3_moe", {"norm_topk_prob": True}),
    hybrid("qwen3_5"),
)


@pytest.mark.parametrize("family", RANDOM, ids=lambda family: family.name)
def test_random_weights_give_the_same_logits(family: Family, tmp_path: Path) -> None:
    """Each row's direction: cosines above 0.999 at every position of a prompt."""
    folder = with_tokenizer(family.save(tmp_path).folder)
    path = quantise_to_file(folder, tmp_path / "m.gguf", "f32").path
    ids = prompt(48)
    ours = load_model(path, dtype="float32").compute_logits(ids)
    llama = llama_cpp.Llama(str(path), n_ctx=128, verbose=False, logits_all=True)
    llama.eval(ids)
    expected = torch.from_numpy(llama.scores[: len(ids)].copy())
    llama.close()
    assert ours.shape == expected.shape
    assert torch.cosine_similarity(ours, expected, -1).min() > 0.999


def test_a_llama_3_tokenizer_cuts_and_begins_texts_alike(tmp_path: Path) -> None:
    folder = Family("llama", "llama").save(tmp_path).folder
    (folder / "tokenizer.json").write_text(json.dumps(train_llama3()))
    path = quantise_to_file(folder, tmp_path / "m.gguf", "f16").path
    with closing(open_checkpoint(path)) as checkpoint:
        ours = Tokenizer.from_files(checkpoint.tokenizer_files())
    original, llama = Tokenizer.from_folder(folder), theirs(path, vocab_only=True)
    texts = [*varied(500), "Hello 1234567 world", "it's 2024!! e\u0301 12345", "a<|eot_id|>b"]
    for text in texts:
        expected = llama.tokenize(text.encode(), add_bos=True, special=True)
        assert list(original.encode(text)) == expected, text
        assert list(ours.encode(text)) == expected, text
    llama.close()


def test_2000_strings_become_the_same_tokens(file: Any) -> None:
    """Composed characters alone: the tokenizer composes others first, llama.cpp does not."""
    path = file("f16")
    with closing(open_checkpoint(path)) as checkpoint:
        ours = Tokenizer.from_files(checkpoint.tokenizer_files())
    llama = theirs(path, vocab_only=True)
    texts = [normalize("NFC", text) for text in varied(2000)]
    assert len(set(texts)) > 1800
    for text in texts:
        expected = llama.tokenize(text.encode(), add_bos=False, special=False)
        assert list(ours.encode(text)) == expected, text
    llama.close()
