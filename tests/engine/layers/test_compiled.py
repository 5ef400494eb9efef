"""Layers as few functions, here run operator by operator, against transformers.

Compiled they are compared in tests/engine/models/test_fast_paths.py, and their parts in
tests/engine/kernels/test_layer_steps.py.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch

from helexa.engine.kernels.compiled import Compiler
from helexa.engine.kernels.few_rows import MOST
from helexa.engine.loading import load_model
from helexa.engine.models.model import Model
from tests.engine.models.families import Family, Reference, hybrid, prompt, scattered, worst

MADE = {
    "llama": Family("llama", "llama", {"attention_bias": True, "mlp_bias": True}),
    "qwen3": Family("qwen3"),
    "one key head": Family("one", fields={"num_key_value_heads": 1}),
    "qwen3_moe": Family("qwen3_moe", "qwen3_moe"),
    "qwen3_5": hybrid("qwen3_5"),
    "qwen3_next": hybrid("qwen3_next", "qwen3_next"),
}
LENGTH = 60


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Reference]:
    return cache(lambda name: MADE[name].save(tmp_path_factory.mktemp("made")))


def in_functions(reference: Reference, **options: Any) -> Model:
    """The model with its layers as functions, none of them compiled."""
    model = load_model(reference.folder, device="cpu", disabled=(), **options)
    model.compile_layers(Compiler())
    assert getattr(model, "compiled", None) is not None
    return model


@pytest.mark.parametrize("name", MADE)
def test_any_few_rows(name: str, reference: Callable[[str], Reference]) -> None:
    """One sequence, as many tokens at a time as may be, over scattered pages."""
    ids = prompt(LENGTH)
    model = in_functions(reference(name), dtype="float32")
    cache, found, start, blocks = model.new_cache(8), [], 0, scattered(LENGTH)
    sizes = [1, 1, 20, *range(1, MOST + 1)]
    with torch.inference_mode():
        for size in sizes:
            part = (ids[start : start + size], start, blocks, size)
            found.append(model.logits(model(model.batch([part], 16), cache)))
            start += size
    wanted = reference(name).logits(ids)[:start]
    assert start > LENGTH - 5
    assert worst(torch.cat(found), wanted) < (1e-3 if "5" in name or "next" in name else 1e-4)


@pytest.mark.parametrize("name", MADE)
def test_several_sequences(name: str, reference: Callable[[str], Reference]) -> None:
    """Single tokens, and drafts between them."""
    model = in_functions(reference(name), dtype="float32")
    ids, tolerance = prompt(LENGTH), 1e-3 if "5" in name or "next" in name else 1e-4
    tables, lengths = [[4, 1], [2, 3], [0, 5], [6, 7]], [9, 17, 3, 12]
    cache = model.new_cache(8, states=4)

    def run(parts: list[tuple[list[int], int, list[int], int, int]]) -> torch.Tensor:
        with torch.inference_mode():
            return model.logits(model(model.batch(parts, 16), cache))

    for state, (blocks, length) in enumerate(zip(tables, lengths, strict=True)):
        run([(ids[:length], 0, blocks, 1, state)])
    for counts in ([1, 1, 1, 1], [1, 3, 1, 2], [2, 1, 1, 1], [1, 1]):
        parts, wanted = [], []
        for state, count in enumerate(counts):
            start = lengths[state]
            parts.append((ids[start : start + count], start, tables[state], count, state))
            wanted.append(reference(name).logits(ids[: start + count])[start:])
            lengths[state] += count
        assert worst(run(parts), torch.cat(wanted)) < tolerance


def test_a_layer_that_cannot_be_compiled(
    reference: Callable[[str], Reference], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then none is: the model runs as it would without."""
    monkeypatch.setattr("helexa.engine.quant.dense.SMALL_MATRIX", 0)
    model = load_model(reference("qwen3").folder, dtype="bfloat16", device="cpu", disabled=())
    model.compile_layers(Compiler())
    assert getattr(model, "compiled", True) is None
    assert model.compute_logits(prompt(5)).isfinite().all()


def test_what_is_compiled(
    reference: Callable[[str], Reference], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels of single matrices only where no layer has theirs: the output's, and the experts'."""
    monkeypatch.setattr("helexa.engine.quant.dense.SMALL_MATRIX", 0)
    monkeypatch.setattr("helexa.engine.loading.require_compiler", lambda: None)
    monkeypatch.setattr("helexa.engine.kernels.compiled.Compiler.compile", lambda _: iter(()))

    def wanted(name: str) -> list[str]:
        folder = reference(name).folder
        model = load_model(folder, dtype="bfloat16", device="cpu", compile=True, disabled=())
        compiler = model.numerics.plain.compiler
        assert compiler is not None
        kernels: list[Any] = compiler.wanted()
        return sorted(kernel.definition.func.__name__ for kernel in kernels)

    twice = ["close_layer", "close_layer"]
    head = ["streamed_product", "streamed_product"]
    opening = ["open_attention", "open_attention"]
    assert wanted("qwen3") == ["attend", *twice, *opening, *head]
    expert = ["streamed_product"] * 4
    assert wanted("qwen3_moe") == ["attend", *twice, *opening, *head, *expert]
