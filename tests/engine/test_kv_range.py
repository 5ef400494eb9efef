"""A CPU's cache is float16 only where float16 holds every key and value the weights can make."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from helexa.engine import loading
from helexa.engine.layers.decoder import DecoderLayer
from helexa.engine.loading import load_model
from helexa.engine.models.model import Model
from tests.engine.models.families import Family, Reference, cosine, prompt

SMALL = {"num_hidden_layers": 2}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
FAMILIES = [
    Family("qwen3", fields=SMALL),
    Family("biased", fields={**SMALL, "attention_bias": True}),
    Family("llama", "llama", SMALL),
    Family("yarn", "llama", SMALL, rope=YARN),
]
TOKENS = 100


@pytest.fixture
def all_caches_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "SMALL_KV", 0)


def bounds(model: Model) -> list[float]:
    layers = [module for module in model.modules() if isinstance(module, DecoderLayer)]
    return [layer.largest_key_or_value for layer in layers]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_no_key_or_value_passes_its_bound_and_the_bound_is_near(
    family: Family, tmp_path: Path
) -> None:
    family.save(tmp_path)
    model = load_model(tmp_path, device="cpu", dtype="float16")
    cache = model.new_cache(tokens=TOKENS)
    model.compute_logits(prompt(TOKENS), cache)
    for layer, bound in zip(cache.layers, bounds(model), strict=True):
        largest = layer.kv[:, :, :TOKENS].abs().max().item()
        assert largest <= bound < 20 * largest


def grown(folder: Path, part: str, factor: float) -> Reference:
    """A bfloat16 checkpoint whose keys or values are that much larger, its outputs the same."""
    reference = Family("grown", "llama", SMALL, dtype=torch.bfloat16).save(folder)
    with torch.no_grad():
        for layer in reference.model.model.layers:
            getattr(layer.self_attn, f"{part}_proj").weight.mul_(factor)
            other = layer.self_attn.o_proj if part == "v" else layer.self_attn.q_proj
            other.weight.div_(factor)
    reference.model.save_pretrained(folder)
    return reference


@pytest.mark.parametrize("part", ["k", "v"])
@pytest.mark.parametrize("dtype", ["auto", "float16"])
@pytest.mark.usefixtures("all_caches_are_large")
def test_keys_and_values_beyond_float16_are_kept_in_bfloat16(
    part: str, dtype: str, tmp_path: Path
) -> None:
    reference = grown(tmp_path, part, 2.0**17)
    model = load_model(tmp_path, device="cpu", dtype=dtype)
    assert min(bounds(model)) > 65504
    assert model.dtype == torch.float16
    assert model.cache_dtype == model.new_cache(1).dtype == torch.bfloat16
    logits = model.compute_logits(prompt(TOKENS))
    assert cosine(logits, reference.logits(prompt(TOKENS))) > 0.999


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_other_formats_hold_everything_and_are_not_looked_at(
    dtype: str, tmp_path: Path
) -> None:
    grown(tmp_path, "v", 2.0**17)
    model = load_model(tmp_path, device="cpu", dtype=dtype)
    assert model.dtype == model.cache_dtype == getattr(torch, dtype)
    assert bounds(model) == [0, 0]


@pytest.mark.usefixtures("all_caches_are_large")
def test_ordinary_weights_keep_the_finer_float16(tmp_path: Path) -> None:
    Family("ordinary", fields=SMALL, dtype=torch.bfloat16).save(tmp_path)
    assert load_model(tmp_path, device="cpu").cache_dtype == torch.float16


def test_a_small_cache_is_exact_whatever_the_weights_are_kept_in() -> None:
    assert load_model("tiny", device="cpu", dtype="float16").cache_dtype == torch.float16
    model = load_model("tiny", device="cpu", disabled=())
    assert (model.dtype, model.cache_dtype) == (torch.float16, torch.float32)
    ids = prompt(300)
    whole = model.compute_logits(ids)
    cache, single = model.new_cache(tokens=len(ids)), []
    for at, id in enumerate(ids):  # as they are decoded, one by one
        single.append(model.compute_logits([id], cache, context=at))
    assert (torch.cat(single) - whole).abs().max() < 1e-4
