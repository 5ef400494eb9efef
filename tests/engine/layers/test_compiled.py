"""Layers as few functions, here run operator by operator, against transformers.

Compiled they are compared in tests/engine/models/test_fast_paths.py, and their parts in
tests/engine/kernels/test_layer_steps.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from helexa.engine.kernels.compiled import Compiler
from helexa.engine.kernels.few_rows import PLAIN
from helexa.engine.layers.compiled import CompiledLayer
from helexa.engine.layers.decoder import DecoderLayer
from helexa.engine.loading import load_model
from helexa.engine.models.llama import Llama
from helexa.engine.models.model import Model
from helexa.engine.quant.dense import DenseWeight
from helexa.errors import InvalidRequest
from tests.engine.models.families import (
    Family,
    Reference,
    cosine,
    hybrid,
    prompt,
    scattered,
    worst,
)
from tests.engine.models.switched import quantised
from tests.engine.quant.cases import CASES
from tools.quantised import convert

MADE = {
    "llama": Family("llama", "llama", {"attention_bias": True, "mlp_bias": True}),
    "qwen3": Family("qwen3"),
    "one key head": Family("one", fields={"num_key_value_heads": 1}),
    "qwen3_moe": Family("qwen3_moe", "qwen3_moe"),
    "qwen3_5": hybrid("qwen3_5"),
    "qwen3_next": hybrid("qwen3_next", "qwen3_next"),
}
LENGTH = 60
WIDE = {
    "num_hidden_layers": 2,
    "hidden_size": 256,
    "intermediate_size": 256,
    "num_attention_heads": 16,
    "num_key_value_heads": 1,
    "head_dim": 16,
}
"""Rows of whole blocks of 256; and matrices whose number of rows is not one of whole words."""
KEPT = {"fp8": "ScaledWeight", "awq": "GroupWeight", "gptq": "GroupWeight"}
BITS = ["q8_0", "q6_k", "q5_k", "q4_k", "q4_0"]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Reference]:
    return cache(lambda name: MADE[name].save(tmp_path_factory.mktemp("made")))


def in_functions(reference: Reference, **options: Any) -> Model:
    """The model with its layers as functions, none of them compiled."""
    model = load_model(reference.folder, device="cpu", disabled=(), **options)
    model.compile_layers(Compiler())
    assert getattr(model, "compiled", None) is not None
    return model


def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is to be compiled runs as it is defined; small matrices are laid out as large ones."""
    monkeypatch.setattr("helexa.engine.loading.require_compiler", lambda: None)
    monkeypatch.setattr("helexa.engine.kernels.readying.make_ready", lambda _: None)
    monkeypatch.setattr("helexa.engine.kernels.compiled.Kernel.compile", lambda _: None)
    for module in ("dense", "blocks.weight"):
        monkeypatch.setattr(f"helexa.engine.quant.{module}.SMALL_MATRIX", 0)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of each call of a layer as functions."""
    rows: list[int] = []
    call = CompiledLayer.__call__

    def counted(self: CompiledLayer, x: torch.Tensor, *args: Any) -> torch.Tensor:
        rows.append(len(x))
        return call(self, x, *args)

    monkeypatch.setattr(CompiledLayer, "__call__", counted)
    return rows


def step_by_step(model: Model, ids: list[int], sizes: list[int]) -> torch.Tensor:
    """Logits [T, V] of so many tokens at a time."""
    cache, found, start = model.new_cache(tokens=sum(sizes)), [], 0
    for size in sizes:
        found.append(model.compute_logits(ids[start : start + size], cache, context=start))
        start += size
    return torch.cat(found)


@pytest.mark.parametrize("name", MADE)
def test_few_rows_run_as_functions(
    name: str, reference: Callable[[str], Reference], ran: list[int]
) -> None:
    model = in_functions(reference(name), dtype="float32")
    layers, sizes = model.config.num_hidden_layers, [PLAIN.most + 1, 1, 4, PLAIN.most, 2]
    step_by_step(model, prompt(LENGTH), sizes)
    assert ran == [size for size in sizes[1:] for _ in range(layers)]


@pytest.mark.parametrize("format", BITS)
def test_quantised_layers(
    format: str, tmp_path: Path, ran: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the numbers that the blocks stand for; none of these blocks' words are all full."""
    uncompiled(monkeypatch)
    family = MADE["qwen3"]
    made = quantised(replace(family, fields=WIDE).save(tmp_path), format)
    model = load_model(
        tmp_path, dtype="float32", device="cpu", quant=format, compile=True, disabled=()
    )
    assert getattr(model, "compiled", None) is not None
    ids, sizes = prompt(40), [20, 1, 4, 1, 3]
    assert worst(step_by_step(model, ids, sizes), made.logits(ids)[: sum(sizes)]) < 1e-4
    assert ran == [1, 1, 4, 4, 1, 1, 3, 3]


@pytest.mark.parametrize("name", MADE)
def test_any_few_rows(name: str, reference: Callable[[str], Reference]) -> None:
    """One sequence, as many tokens at a time as may be, over scattered pages."""
    ids = prompt(LENGTH)
    model = in_functions(reference(name), dtype="float32")
    cache, found, start, blocks = model.new_cache(8), [], 0, scattered(LENGTH)
    sizes = [1, 1, 20, *range(1, 10)]
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


@pytest.mark.parametrize("left", [(0, 1, 2, 3), (1,), (2, 3)], ids=str)
def test_layers_that_cannot_be_compiled(
    left: tuple[int, ...],
    reference: Callable[[str], Reference],
    ran: list[int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """They run as they are, the others as functions; a warning says which and why."""
    model = load_model(reference("qwen3").folder, dtype="float32", device="cpu", disabled=())
    for index in left:
        down = cast("DecoderLayer", model.layers[index]).mlp.down  # type: ignore[index]  # a list of modules
        down.weight = DenseWeight(down.weight.matrix())
    model.compile_layers(Compiler())
    assert (getattr(model, "compiled", None) is None) == (len(left) == 4)
    ids, sizes = prompt(LENGTH), [20, 1, 4, 1]
    wanted = reference("qwen3").logits(ids)[: sum(sizes)]
    assert worst(step_by_step(model, ids, sizes), wanted) < 1e-4
    assert len(ran) == 3 * (4 - len(left))
    (record,) = caplog.records
    told = f"`compile` leaves {len(left)} of 4 layers as they are: the matrix "
    assert record.levelname == "WARNING"
    assert record.message.startswith(f"{told}layers.{left[0]}.mlp.down is kept as DenseWeight,")


def test_all_layers_are_compiled_without_a_word(
    reference: Callable[[str], Reference], caplog: pytest.LogCaptureFixture
) -> None:
    in_functions(reference("qwen3_next"), dtype="float32")
    assert not caplog.records


@pytest.mark.parametrize("name", ["fp8", "awq", "gptq"])
def test_formats_that_nothing_is_compiled_for(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Then no compiler is asked for, unless for a plain matrix beside them that is large."""
    base = Family("small", fields={"num_hidden_layers": 1}).save(tmp_path / "plain")
    (tmp_path / "stored").mkdir()
    meant = convert(base.folder, tmp_path / "stored", CASES[name])
    base.model.load_state_dict(meant)

    def refuse() -> None:
        raise InvalidRequest("there is none")

    def load(**more: Any) -> Model:
        folder = tmp_path / "stored"
        return load_model(folder, dtype="bfloat16", device="cpu", compile=True, **more)

    monkeypatch.setattr("helexa.engine.loading.require_compiler", refuse)
    monkeypatch.setattr("helexa.engine.kernels.readying.make_ready", lambda _: None)
    model = load(disabled=())
    assert getattr(model, "compiled", True) is None
    assert len(model.numerics.plain.compiler or ()) == 0
    assert cosine(model.compute_logits(prompt(9)), base.logits(prompt(9))) > 0.99
    (record,) = caplog.records
    assert "leaves 1 of 1 layers as they are: the matrix layers.0.mixer.qkv" in record.message
    assert f"is kept as {KEPT[name]}, which compiled functions cannot read" in record.message
    monkeypatch.setattr("helexa.engine.quant.dense.SMALL_MATRIX", 0)
    with pytest.raises(InvalidRequest, match="there is none"):
        load(disabled=())
    assert load(disabled=["quant_kernels"]).numerics.plain.compiler is None


@pytest.mark.parametrize("quant", ["bf16", "f32"])
def test_plain_formats_are_compiled(
    quant: str, reference: Callable[[str], Reference], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for as any other format is."""
    uncompiled(monkeypatch)
    made = reference("qwen3")
    model = load_model(made.folder, device="cpu", quant=quant, compile=True, disabled=())
    assert isinstance(model, Llama) and model.compiled is not None
    assert all(isinstance(layer, CompiledLayer) for layer in model.compiled.layers)
    ids = prompt(20)
    assert cosine(step_by_step(model, ids, [13, 1, 4]), made.logits(ids)[:18]) > 0.999


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
