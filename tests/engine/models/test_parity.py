"""Logits and greedy tokens against the reference implementation, in float32 and in 16 bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen3ForCausalLM

import helexa
from helexa.engine.loading import load_model
from helexa.engine.models.model import Model
from helexa.engine.runner import Runner
from helexa.text.tokenizer import Tokenizer
from tests.engine.models.families import (
    Family,
    Reference,
    cosine,
    prompt,
    run_chunks,
    scattered,
    worst,
)

TOLERANCE = 1e-4
QUESTION = (
    "<|im_start|>user\nWhat is 17 + 25?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
)
LENGTHS = (1, 7, 63, 64, 65, 130, 700)
SMALL = {"num_hidden_layers": 2, "max_position_embeddings": 1024}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}


def heads(query: int, key: int) -> dict[str, int]:
    return {**SMALL, "num_attention_heads": query, "num_key_value_heads": key, "head_dim": 16}


def experts(name: str, seed: int, **fields: Any) -> Family:
    """The seed is the first whose routers choose clearly on the prompt (see the test of it)."""
    return Family(name, "qwen3_moe", {**SMALL, **fields}, seed=seed)


QWEN3, LLAMA = Family("qwen3"), Family("llama", "llama")
QWEN3_MOE = experts("qwen3_moe", 93, num_hidden_layers=4)
FAMILIES = (
    QWEN3,
    LLAMA,
    QWEN3_MOE,
    experts("moe-renormalised", 93, norm_topk_prob=True),
    experts("moe-top-1", 92, num_experts_per_tok=1),
    replace(experts("moe-three-shards", 94), shards=3),
    experts("moe-all-chosen", 92, num_experts=5, num_experts_per_tok=5),
    experts("moe-and-dense", 92, num_hidden_layers=6, decoder_sparse_step=2, mlp_only_layers=[3]),
    Family("qwen3-two-shards", fields=SMALL, shards=2),
    Family("llama-three-shards", "llama", fields=SMALL, shards=3),
    Family("qwen3-tied", fields={**SMALL, "tie_word_embeddings": True}),
    Family("llama-tied", "llama", fields={**SMALL, "tie_word_embeddings": True}),
    Family("qwen3-biased", fields={**SMALL, "attention_bias": True}),
    Family("llama-biased", "llama", fields={**SMALL, "attention_bias": True, "mlp_bias": True}),
    Family("multi-head", fields=heads(4, 4)),
    Family("groups-of-4", fields=heads(8, 2)),
    Family("groups-of-8", fields=heads(8, 1)),
    Family("3-heads", fields=heads(3, 1)),
    Family("5-heads", fields=heads(5, 5)),
    Family("theta-10000", "llama", fields=SMALL, theta=1e4),
    Family("linear", "llama", fields=SMALL, rope={"rope_type": "linear", "factor": 4.0}),
    Family("llama3", "llama", fields=SMALL, rope=LLAMA3),
    Family("yarn", fields=SMALL, rope=YARN),
    Family("yarn-exact", fields=SMALL, rope={**YARN, "truncate": False, "beta_fast": 16.0}),
)
BY_NAME = {family.name: family for family in FAMILIES}
CHUNKED = (
    *("qwen3-two-shards", "llama3", "3-heads", "groups-of-4", "llama-biased"),
    *("qwen3_moe", "moe-and-dense"),
)


def greedy(model: Model, ids: list[int], count: int, chunk: int = 700) -> list[tuple[int, float]]:
    """``count`` greedy tokens after a prompt, each with how far it is ahead of the second best."""
    cache = model.new_cache(tokens=len(ids) + count)
    for start in range(0, len(ids), chunk):
        logits = model.compute_logits(ids[start : start + chunk], cache, context=start)
    found: list[tuple[int, float]] = []
    while len(found) < count:
        best = logits[-1].topk(2)
        found.append((int(best.indices[0]), float(best.values[0] - best.values[1])))
        logits = model.compute_logits([found[-1][0]], cache, context=len(ids) + len(found) - 1)
    return found


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Reference]:
    """The checkpoint of a family, made when first asked for."""

    @cache
    def made(name: str) -> Reference:
        return BY_NAME[name].save(tmp_path_factory.mktemp(name))

    return made


@pytest.fixture(scope="module")
def exact(reference: Callable[[str], Reference]) -> Callable[[str], Model]:
    """The same checkpoint loaded by us, in float32."""
    return cache(lambda name: load_model(reference(name).folder, dtype="float32"))


@pytest.mark.parametrize("name", [n for n in BY_NAME if "moe" in n and n != "moe-all-chosen"])
def test_rounding_does_not_choose_the_experts(name: str, reference: Callable) -> None:
    """Else the reference itself, given the prompt in two ways, would differ."""
    assert reference(name).smallest_gap(prompt(700)) > 1e-4


@pytest.mark.parametrize("name", BY_NAME)
def test_e001_every_position_matches(name: str, reference: Callable, exact: Callable) -> None:
    expected = reference(name).logits(prompt(700))
    for length in LENGTHS:
        ours = exact(name).compute_logits(prompt(length))
        assert worst(ours, expected[:length]) < TOLERANCE, length


@pytest.mark.parametrize("kind", ["qwen3", "llama", "qwen3_moe"])
def test_e001_the_tiny_parity_model_matches(
    kind: str, reference: Callable, exact: Callable
) -> None:
    expected = reference(kind).logits(prompt(96))
    ours = exact(kind).compute_logits(prompt(96))
    assert worst(ours, expected) < TOLERANCE
    assert cosine(ours, expected) > 0.9999


@pytest.mark.parametrize(("length", "size"), [(64, 1), (64, 3), (700, 64), (700, 100), (700, 699)])
@pytest.mark.parametrize("name", CHUNKED)
def test_e051_chunks_match(
    name: str, length: int, size: int, reference: Callable, exact: Callable
) -> None:
    expected = reference(name).logits(prompt(length))
    blocks = list(range(-(-length // 16)))
    assert worst(run_chunks(exact(name), prompt(length), size, blocks), expected) < TOLERANCE
    blocks = scattered(length)
    assert worst(run_chunks(exact(name), prompt(length), size, blocks), expected) < TOLERANCE


@pytest.mark.parametrize("name", BY_NAME)
def test_e051_every_family_continues_at_every_position(
    name: str, reference: Callable, exact: Callable
) -> None:
    """In ragged chunks, and with the first half in the cache."""
    model, ids, expected = exact(name), prompt(700), reference(name).logits(prompt(700))
    assert worst(run_chunks(model, ids, 77, scattered(700)), expected) < TOLERANCE
    cache = model.new_cache(tokens=700)
    model.compute_logits(ids[:350], cache)
    second = model.compute_logits(ids[350:], cache, context=350)
    assert worst(second, expected[350:]) < TOLERANCE


@pytest.mark.parametrize("name", CHUNKED)
def test_a_cached_half_is_continued(name: str, reference: Callable, exact: Callable) -> None:
    """Another sequence's blocks hold the first half; one pass computes the second half of two."""
    model, ids, blocks = exact(name), prompt(700), scattered(700)
    runner = Runner(model, model.new_cache(3 * len(blocks)))
    other = [block + len(blocks) for block in range(2 * len(blocks))]
    runner.run([(ids[:352], 0, blocks, False)])
    shared = blocks[:22] + other[::2]
    logits = runner.run([(ids[352:], 352, shared, True), (ids[352:500], 352, blocks, True)])
    expected = reference(name).logits(ids)[[699, 499]]
    assert worst(logits, expected) < TOLERANCE


@pytest.mark.parametrize("name", BY_NAME)
def test_greedy_tokens_match(name: str, reference: Callable, exact: Callable) -> None:
    count = (
        128 if BY_NAME[name] in (QWEN3, LLAMA, QWEN3_MOE) else 48
    )  # of variants the first few tell
    found = greedy(exact(name), prompt(40), count)
    assert [token for token, _ in found] == reference(name).greedy(prompt(40), count)


@pytest.mark.parametrize("name", ["qwen3", "qwen3_moe"])
def test_a_sequence_does_not_notice_its_neighbours(name: str, exact: Callable) -> None:
    """32 ragged prompts, then a decode step, in one batch each: the logits as each has alone."""
    model = exact(name)
    lengths = [1 + (37 * i) % 90 for i in range(32)]
    prompts = [[(11 * i + 5 * n) % 512 for n in range(k)] for i, k in enumerate(lengths)]
    tables = [list(range(6 * i, 6 * i + 6)) for i in range(32)]
    together = Runner(model, model.new_cache(6 * 32))
    first = together.run([(p, 0, t, True) for p, t in zip(prompts, tables, strict=True)])
    tokens = first.argmax(-1).tolist()
    rows = zip(tokens, lengths, tables, strict=True)
    second = together.run([([token], length, table, True) for token, length, table in rows])
    for i, ids in enumerate(prompts):
        alone = Runner(model, model.new_cache(6))
        assert worst(alone.run([(ids, 0, range(6), True)]), first[i : i + 1]) < 1e-5
        after = alone.run([([tokens[i]], len(ids), range(6), True)])
        assert worst(after, second[i : i + 1]) < 1e-5
        assert after.argmax() == second[i].argmax()


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("dtype", ["auto", "bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["qwen3", "llama", "qwen3_moe"])
def test_16_bits_stay_close(
    kind: str,
    dtype: str,
    stored: torch.dtype,
    tmp_path: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("helexa.engine.quant.dense.SMALL_MATRIX", 0)
    made = Family("half", kind, SMALL, dtype=stored).save(tmp_path)
    made.model.float()
    expected = made.logits(prompt(64))
    model = load_model(made.folder, dtype=dtype, device="cpu")
    least = 0.99 if kind == "qwen3_moe" else 0.999  # a rounded score may change an expert
    assert cosine(model.compute_logits(prompt(64)), expected) > least
    assert cosine(run_chunks(model, prompt(64), 1, [3, 1, 0, 2]), expected) > least
    assert model.nbytes < 0.6 * sum(p.nbytes for p in made.model.parameters())


@pytest.fixture(scope="module")
def shipped() -> Reference:
    """The model in the package, as transformers reads it."""
    folder = Path(helexa.__file__).parent / "builtin" / "tiny"
    made = Qwen3ForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    return Reference(folder, made.eval())


@pytest.mark.parametrize("length", LENGTHS)
def test_the_model_that_ships_matches(length: int, shipped: Reference) -> None:
    model = load_model("tiny", dtype="float32", device="cpu")
    ids = [(7 * i + 3) % model.config.vocab_size for i in range(length)]
    expected = shipped.logits(ids)
    assert worst(model.compute_logits(ids), expected) < TOLERANCE
    for size in (33, 300):
        assert worst(run_chunks(model, ids, size, scattered(length)), expected) < TOLERANCE
    cache, half = model.new_cache(tokens=length), length // 2
    if half:
        model.compute_logits(ids[:half], cache)
    second = model.compute_logits(ids[half:], cache, context=half)
    assert worst(second, expected[half:]) < TOLERANCE
    quick = load_model("tiny", device="cpu")
    assert cosine(quick.compute_logits(ids), expected) > 0.999


def test_the_model_that_ships_continues_alike(shipped: Reference) -> None:
    model = load_model("tiny", dtype="float32", device="cpu")
    found = greedy(model, prompt(40), 128)
    assert [token for token, _ in found] == shipped.greedy(prompt(40), 128)


@pytest.mark.parametrize("chunk", [1, 7, 33])
def test_16_bits_choose_alike_where_the_best_is_clear(
    chunk: int, shipped: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to the first position whose two best logits differ by less than 0.5."""
    monkeypatch.setattr("helexa.engine.quant.dense.SMALL_MATRIX", 0)
    model = load_model("tiny", dtype="bfloat16", device="cpu")
    ids = Tokenizer.from_folder(shipped.folder).encode(QUESTION)
    whole, parts = greedy(model, ids, 48), greedy(model, ids, 48, chunk)
    clear = next((i for i, (_, ahead) in enumerate(whole) if ahead < 0.5), len(whole))
    assert clear > 4
    assert [t for t, _ in parts[:clear]] == [t for t, _ in whole[:clear]]


def test_only_wanted_rows_yield_logits(exact: Callable) -> None:
    model = exact("qwen3")
    runner = Runner(model, model.new_cache(4))
    assert runner.run([(prompt(20), 0, [0, 1], False)]).shape == (0, 512)
    logits = runner.run([(prompt(9), 20, [0, 1], False), (prompt(9), 0, [3], True)])
    assert worst(logits, model.compute_logits(prompt(9))[-1:]) < TOLERANCE
