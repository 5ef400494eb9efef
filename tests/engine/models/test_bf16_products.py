"""Models whose matrices are large enough to be multiplied in bfloat16, against transformers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from helexa.engine.kernels.narrow_product import multiplies_bfloat16
from helexa.engine.layers.linear import Linear
from helexa.engine.loading import load_model
from helexa.engine.memory import SMALL_MATRIX
from helexa.engine.models.model import Model
from helexa.engine.quant.dense import ReorderedWeight
from tests.engine.models.families import Family, Reference, prompt, worst

pytestmark = pytest.mark.skipif(
    not multiplies_bfloat16(), reason="this CPU has no instructions for it"
)

LARGE: dict[str, Any] = {
    "vocab_size": 1024,
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 3,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "initializer_range": 0.05,
}
"""Every matrix of it but the output projection of attention has at least SMALL_MATRIX numbers."""
OFF = ["bf16_products"]
IDS = prompt(40, 1024)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """Stored in bfloat16, computing in float32, angles included."""
    made = Family("large", fields=LARGE, dtype=torch.bfloat16).save(tmp_path_factory.mktemp("big"))
    model = AutoModelForCausalLM.from_pretrained(made.folder, dtype=torch.float32)
    return Reference(made.folder, model.eval())


def linears(model: Model) -> list[Linear]:
    found = [module for module in model.modules() if isinstance(module, Linear)]
    return [module for module in found if math.prod(module.weight.shape) >= SMALL_MATRIX]


def least_cosine(ours: Tensor, expected: Tensor) -> float:
    return torch.cosine_similarity(ours, expected, dim=-1).min().item()


def stepped(model: Model) -> Tensor:
    """Logits at every position, half a prompt at once and then one token at a time."""
    half = len(IDS) // 2
    cache = model.new_cache(tokens=len(IDS))
    rows = [model.compute_logits(IDS[:half], cache)]
    rows += [model.compute_logits(IDS[i : i + 1], cache, context=i) for i in range(half, len(IDS))]
    return torch.cat(rows)


def test_large_matrices_are_multiplied_in_bfloat16(reference: Reference) -> None:
    """But not the one that gives logits."""
    model = load_model(reference.folder, device="cpu", disabled=())
    exact = reference.logits(IDS)
    for logits in (model.compute_logits(IDS), stepped(model)):
        assert least_cosine(logits, exact) > 0.9995
        assert not torch.equal(logits, logits.bfloat16().float())
    kinds = {type(module.weight) for module in linears(model) if module is not model.head}
    assert kinds == {ReorderedWeight}
    assert model.head is not None and type(model.head.weight) is not ReorderedWeight


def test_without_the_switch_they_are_not(reference: Reference) -> None:
    model = load_model(reference.folder, device="cpu", disabled=OFF)
    assert least_cosine(model.compute_logits(IDS), reference.logits(IDS)) > 0.99999
    assert ReorderedWeight not in {type(module.weight) for module in linears(model)}


def test_float32_stays_exact(reference: Reference) -> None:
    model = load_model(reference.folder, device="cpu", dtype="float32")
    assert worst(model.compute_logits(IDS), reference.logits(IDS)) < 1e-3
    assert ReorderedWeight not in {type(module.weight) for module in linears(model)}


@pytest.mark.parametrize("quant", ["q8_0", "q6_k"])
def test_quantised_matrices_are_expanded_to_bfloat16(reference: Reference, quant: str) -> None:
    """Where there are many rows: a single one is multiplied as it always was."""
    fast, slow = (
        load_model(reference.folder, device="cpu", quant=quant, disabled=off) for off in ([], OFF)
    )
    many = [model.compute_logits(IDS) for model in (fast, slow)]
    assert not torch.equal(*many)
    assert least_cosine(*many) > 0.9995
    assert torch.equal(fast.compute_logits(IDS[:3]), slow.compute_logits(IDS[:3]))
