"""Every architecture, with all fast paths of a CPU and without each: what it says is unchanged.

The reference is transformers' eager model in float32. Those of a GPU: test_fast_paths_on_device.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from helexa.engine.config import IDLE_SWITCHES, SWITCHES
from helexa.engine.loading import load_model
from helexa.engine.models.registry import MODELS
from helexa.engine.quant.blocks import weight as block_weights
from tests.engine.compilers import needs_compiler
from tests.engine.models.families import cosine, worst
from tests.engine.models.switched import (
    ARCHITECTURES,
    CLEAR,
    ON_DEVICES,
    TOLERANCE,
    Expected,
    logits,
    looks_at,
    prompts,
    quantised,
    says,
)

STOPS = (30, 62, 65)
"""Chunks of the last prompt, the last as long as a draft; then it goes on one by one."""
OF_CORES = ("batching", "prefix_cache")
OFF = [
    (name, switch)
    for name in ARCHITECTURES
    for switch in (*looks_at(name), "quant_kernels", "bf16_products", *OF_CORES)
]
"""What a CPU's models look at."""
ELSEWHERE = {"compile", "large_pages"}
"""Those with tests of their own: below, and in tests/engine/test_switches.py."""


def test_every_architecture_and_every_switch_is_tested() -> None:
    assert set(ARCHITECTURES) == set(MODELS)
    tested = {switch for _, switch in OFF} | set(ON_DEVICES) | ELSEWHERE
    assert tested == SWITCHES - IDLE_SWITCHES


@pytest.fixture(scope="module", autouse=True)
def large_matrices() -> Iterator[None]:
    """Small matrices are laid out as large ones are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("helexa.engine.quant.dense.SMALL_MATRIX", 0)
        patch.setattr(block_weights, "SMALL_MATRIX", 0)
        yield


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Expected]:
    """What the reference says, its weights as they are or in a format; made when first asked."""

    @cache
    def made(name: str, format: str | None = None) -> Expected:
        reference = ARCHITECTURES[name].save(tmp_path_factory.mktemp(name))
        if format is not None:
            reference = quantised(reference, format)
        return Expected(reference, prompts())

    return made


@pytest.mark.parametrize("format", [None, "q8_0"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_rounding_chooses_nothing(name: str, format: str | None, expected: Callable) -> None:
    """Else two correct models differ."""
    ahead, chosen = expected(name, format).clear()
    assert ahead > CLEAR
    assert chosen > CLEAR / 10


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_all_fast_paths(name: str, expected: Callable) -> None:
    wanted = expected(name)
    model = load_model(wanted.folder, dtype="float32", device="cpu", disabled=())
    found = logits(model, wanted.prompts[-1], STOPS)
    assert worst(found, wanted.logits) < TOLERANCE[name]
    assert cosine(found, wanted.logits) > 0.9999
    said = says(model, wanted.prompts)
    assert said.tokens == wanted.answers
    assert said.drafted > 0
    assert said.cached > 0
    assert said.rows == 2
    plain = says(model, wanted.prompts, drafts=False)
    assert (plain.tokens, plain.drafted) == (wanted.answers, 0)


@pytest.mark.parametrize(("name", "switch"), OFF)
def test_each_switch(name: str, switch: str, expected: Callable) -> None:
    wanted = expected(name)
    model = load_model(wanted.folder, dtype="float32", device="cpu", disabled=[switch])
    assert worst(logits(model, wanted.prompts[-1], STOPS), wanted.logits) < TOLERANCE[name]
    said = says(model, wanted.prompts, switch)
    assert said.tokens == wanted.answers
    assert (said.cached > 0) == (switch != "prefix_cache")
    assert said.rows == (1 if switch == "batching" else 2)


@pytest.mark.parametrize("switch", ["flash_attn", "flash_decode"])
def test_a_key_for_each_head(switch: str, tmp_path: Path) -> None:
    """What attention by its definition gives is strided then."""
    family = ARCHITECTURES["qwen3"]
    reference = replace(family, fields={**family.fields, "num_key_value_heads": 4}).save(tmp_path)
    model = load_model(tmp_path, dtype="float32", device="cpu", disabled=[switch])
    ids = prompts()[1]
    assert worst(logits(model, ids, STOPS[:1]), reference.logits(ids)) < TOLERANCE["qwen3"]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_16_bits(name: str, expected: Callable) -> None:
    """With all fast paths, and without each that a model knows."""
    wanted = expected(name)
    for switch in (None, *(switch for of, switch in OFF if of == name and switch not in OF_CORES)):
        off = [switch] if switch else []
        model = load_model(wanted.folder, dtype="bfloat16", device="cpu", disabled=off)
        assert model.cache_dtype.itemsize == 2
        assert wanted.stays_close(logits(model, wanted.prompts[-1], STOPS)), switch


@pytest.mark.parametrize("switch", [None, "quant_kernels"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_quantised_weights(name: str, switch: str | None, expected: Callable) -> None:
    """The reference has the numbers that these weights stand for."""
    wanted, off = expected(name, "q8_0"), [switch] if switch else []
    model = load_model(wanted.folder, dtype="float32", device="cpu", quant="q8_0", disabled=off)
    assert worst(logits(model, wanted.prompts[-1], STOPS), wanted.logits) < TOLERANCE[name]
    assert says(model, wanted.prompts, *off).tokens == wanted.answers


@pytest.mark.parametrize("switch", [None, "quant_kernels"])
@pytest.mark.parametrize("format", ["q4_k", "q6_k"])
def test_blocks_of_256(format: str, switch: str | None, tmp_path: Path) -> None:
    """Rows of an architecture that is wide enough for them."""
    family = ARCHITECTURES["qwen3"]
    wide = {"hidden_size": 256, "intermediate_size": 256, "head_dim": 64, "initializer_range": 0.1}
    reference = replace(family, fields={**family.fields, **wide}).save(tmp_path)
    wanted, off = Expected(quantised(reference, format), prompts()[:2]), [switch] if switch else []
    assert wanted.clear()[0] > CLEAR
    model = load_model(tmp_path, dtype="float32", device="cpu", quant=format, disabled=off)
    assert worst(logits(model, wanted.prompts[-1], STOPS[:1]), wanted.logits) < TOLERANCE["qwen3"]
    assert says(model, wanted.prompts, *off).tokens == wanted.answers


@needs_compiler
@pytest.mark.parametrize("name", ["qwen3", "qwen3_5_moe"])
def test_compiled(name: str, expected: Callable) -> None:
    """All that is compiled; what else there is runs uncompiled in layers/test_compiled.py."""
    wanted = expected(name)
    model = load_model(wanted.folder, dtype="float32", device="cpu", compile=True, disabled=())
    assert worst(logits(model, wanted.prompts[-1], STOPS), wanted.logits) < TOLERANCE[name]
    assert says(model, wanted.prompts).tokens == wanted.answers


@needs_compiler
@pytest.mark.parametrize("switch", [None, "compile"])
def test_compiled_and_quantised(switch: str | None, expected: Callable) -> None:
    """Of one architecture: the others have matrices like these, and compiling takes long."""
    wanted, off = expected("qwen3", "q8_0"), [switch] if switch else []
    model = load_model(
        wanted.folder, dtype="float32", device="cpu", quant="q8_0", compile=True, disabled=off
    )
    assert worst(logits(model, wanted.prompts[-1], STOPS), wanted.logits) < TOLERANCE["qwen3"]
    assert says(model, wanted.prompts, *off).tokens == wanted.answers
