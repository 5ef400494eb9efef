"""E-099: a fast path that is switched off changes the speed, not the tokens."""

from __future__ import annotations

from pathlib import Path

import pytest

from helexa.engine.build import build_core
from helexa.engine.config import EngineConfig
from helexa.engine.kernels.attention import attention_definition
from helexa.engine.layers.attention import Attention
from helexa.engine.loading import load_model
from helexa.engine.outputs import Request
from helexa.engine.params import SamplingParams
from tests.engine.models.families import Family

PROMPTS = [list(range(50, 50 + n)) for n in (3, 40, 90)]


def greedy(*disabled: str, model: str | Path = "tiny", device: str = "cpu") -> list[list[int]]:
    """What a model answers to three prompts at once, the third in a second wave."""
    config = EngineConfig(
        device=device,
        dtype="float32",
        max_batch=2,
        prefill_chunk_tokens=32,
        disabled=frozenset(disabled),
    )
    core = build_core(model, config)
    params = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True)
    tokens: dict[int, list[int]] = {core.submit(Request(tuple(p), params)): [] for p in PROMPTS}
    while not core.idle:
        for output in core.step():
            assert output.error is None
            tokens[output.id] += output.token_ids
    core.close()
    return list(tokens.values())


@pytest.fixture(scope="module")
def expected() -> list[list[int]]:
    return greedy()


@pytest.mark.parametrize(
    "switch", ["flash_attn", "flash_decode", "quant_kernels", "batching", "prefix_cache"]
)
def test_e099_switches(switch: str, expected: list[list[int]]) -> None:
    assert greedy(switch) == expected


@pytest.mark.parametrize("switch", ["moe_fused", "batching", "prefix_cache"])
def test_e099_switches_of_a_mixture_of_experts(switch: str, tmp_path: Path) -> None:
    model = Family("moe", "qwen3_moe", {"num_hidden_layers": 2}, seed=93).save(tmp_path).folder
    assert greedy(switch, model=model) == greedy(model=model)


def test_the_attention_switches_reach_the_layers() -> None:
    model = load_model("tiny", disabled=["flash_attn"])
    layers = [module for module in model.modules() if isinstance(module, Attention)]
    assert layers
    for layer in layers:
        assert layer.prefill is attention_definition
        assert layer.decode is not attention_definition
