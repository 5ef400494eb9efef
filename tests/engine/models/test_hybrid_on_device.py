"""Whole models with the delta rule's kernels for GPUs, interpreted where there is none."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch

from helexa.engine.layers.delta import GatedDelta
from helexa.engine.loading import load_model
from helexa.engine.models.model import Model
from helexa.engine.runner import Runner
from tests.engine.models.families import Reference, hybrid, prompt, run_chunks, scattered, worst

pytest.importorskip("triton", reason="there is no triton for this machine")

TOLERANCE = 1e-3
FEW = {"num_hidden_layers": 2, "layer_types": ["linear_attention", "full_attention"]}
FAMILIES = (
    hybrid("qwen3_5", **FEW),
    hybrid("qwen3_next", "qwen3_next", **FEW),
    hybrid("wide-kernel", **FEW, linear_conv_kernel_dim=6, linear_num_value_heads=2),
)
BY_NAME = {family.name: family for family in FAMILIES}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Reference]:
    """The checkpoint of a family, made when first asked for."""
    return cache(lambda name: BY_NAME[name].save(tmp_path_factory.mktemp(name)))


@pytest.fixture(scope="module")
def exact(reference: Callable[[str], Reference]) -> Callable[..., Model]:
    """The same checkpoint loaded by us, in float32, with or without the kernels."""

    def load(name: str, kernels: bool = True) -> Model:
        model = load_model(reference(name).folder, dtype="float32")
        for layer in layers(model):
            layer.on_device = kernels
        return model

    return cache(load)


def layers(model: Model) -> list[GatedDelta]:
    found = [layer for layer in model.modules() if isinstance(layer, GatedDelta)]
    assert found
    return found


@pytest.mark.parametrize("name", BY_NAME)
@pytest.mark.parametrize(("length", "size"), [(70, 70), (70, 33), (6, 1)])
def test_every_position_matches(
    name: str, length: int, size: int, reference: Callable, exact: Callable
) -> None:
    expected = reference(name).logits(prompt(length))
    ours = run_chunks(exact(name), prompt(length), size, scattered(length))
    assert worst(ours, expected) < TOLERANCE


def test_tiled_heads(exact: Callable) -> None:
    """As some GGUF files have them."""
    made = [exact("qwen3_5"), exact("qwen3_5", kernels=False)]
    try:
        for layer in (layer for model in made for layer in layers(model)):
            shape = layer.delta
            values = [getattr(shape, name) for name in shape.__slots__]
            layer.delta = type(shape)(*values[:-1], tiled=True)
        ours, theirs = (run_chunks(model, prompt(9), 8, [0]) for model in made)
    finally:
        for layer in (layer for model in made for layer in layers(model)):
            layer.delta = shape
    assert worst(ours, theirs) < 1e-4


@pytest.mark.parametrize("name", ["qwen3_5", "qwen3_next"])
def test_a_step_of_many_sequences(name: str, exact: Callable) -> None:
    """Prompts of 1 to 66 tokens, then steps beside a late prompt, in odd slots."""
    slots, prompts = [3, 1, 4, 0], [[(11 * i + 5 * n) % 512 for n in range(m)] for i, m in SIZES]
    tables = [range(6 * i, 6 * i + 6) for i in range(4)]
    rows = list(zip(prompts, tables, slots, strict=True))
    late = [(rows[0][0], 0, rows[0][1], True, rows[0][2])]
    first = [(ids, 0, table, True, slot) for ids, table, slot in rows[1:]]
    then = [([7], len(ids), table, True, slot) for ids, table, slot in rows[1:]]
    found = []
    for kernels in (True, False):
        model = exact(name, kernels=kernels)
        cache = model.new_cache(24, states=5)
        cache.states.recurrent.fill_(3.0)  # what the last owner of a slot has left
        runner = Runner(model, cache)
        found.append(torch.cat([runner.run(first), runner.run(late + then), runner.run([then[1]])]))
    assert worst(*found) < 1e-4


SIZES = list(enumerate((5, 1, 66, 3)))


@pytest.mark.gpu
@pytest.mark.parametrize("name", BY_NAME)
def test_a_gpu_computes_what_the_cpu_does(name: str, reference: Callable) -> None:
    model = load_model(reference(name).folder, dtype="float32", device="cuda")
    assert all(layer.on_device for layer in layers(model))
    ours = run_chunks(model, prompt(130), 65, scattered(130)).cpu()
    assert worst(ours, reference(name).logits(prompt(130))) < TOLERANCE
