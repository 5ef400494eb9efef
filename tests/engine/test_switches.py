"""E-099: a fast path that is switched off changes the speed, not the tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from helexa.engine import config
from helexa.engine.build import build_core
from helexa.engine.config import IDLE_SWITCHES, SWITCHES, EngineConfig
from helexa.engine.kernels.attention import attention_definition
from helexa.engine.kernels.experts import experts_definition
from helexa.engine.layers import delta
from helexa.engine.layers.attention import Attention
from helexa.engine.layers.experts import Experts
from helexa.engine.layers.linear import Linear
from helexa.engine.loading import load_model
from helexa.engine.outputs import Request
from helexa.engine.params import SamplingParams
from helexa.engine.quant.blocks import weight as block_weights
from helexa.engine.quant.blocks.lanes import LaneWeight
from tests.engine.compilers import needs_compiler
from tests.engine.models.families import Family, hybrid

PROMPTS = [list(range(50, 50 + n)) for n in (3, 40, 90)]


def greedy(*disabled: str, model: str | Path = "tiny", device: str = "cpu") -> list[list[int]]:
    """What a model answers to three prompts at once, the third in a second wave."""
    asked = EngineConfig(
        device=device,
        dtype="float32",
        max_batch=2,
        prefill_chunk_tokens=32,
        disabled=frozenset(disabled),
    )
    core = build_core(model, asked)
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


@needs_compiler
def test_compiled_kernels_change_the_speed_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """And without the switch, or where nobody asks for them, there are none.

    Here they run as their definitions; compiled, in models/test_fast_paths.py.
    """
    monkeypatch.setattr("helexa.engine.kernels.compiled.Kernel.compile", lambda _: None)
    monkeypatch.setattr(block_weights, "SMALL_MATRIX", 0)
    plain = load_model("tiny", dtype="float32", quant="q8_0", disabled=["compile"], compile=True)
    heard: list[tuple[str, int, int | None]] = []
    fast = load_model(
        "tiny",
        dtype="float32",
        quant="q8_0",
        compile=True,
        disabled=(),
        progress=lambda *at: heard.append(at),
    )
    kinds = [
        {type(module.weight) for module in model.modules() if isinstance(module, Linear)}
        for model in (plain, fast)
    ]
    assert LaneWeight not in kinds[0]
    assert kinds[1] == {LaneWeight}
    kernels = [at for at in heard if at[0] == "kernels"]
    assert [done for _, done, _ in kernels] == list(range(1, 1 + len(kernels)))
    for ids in PROMPTS[:2]:
        wanted, found = plain.compute_logits(ids), fast.compute_logits(ids)
        assert torch.allclose(found, wanted, atol=1e-3)
        for model, logits in ((plain, wanted), (fast, found)):
            cache = model.new_cache(tokens=len(ids) + 1)
            model.compute_logits(ids, cache)
            step = model.compute_logits([7], cache, context=len(ids))
            assert torch.equal(step.argmax(-1), plain.compute_logits([*ids, 7])[-1:].argmax(-1))
            assert logits.isfinite().all()


@pytest.mark.parametrize("switch", ["moe_fused", "batching", "prefix_cache"])
def test_e099_switches_of_a_mixture_of_experts(switch: str, tmp_path: Path) -> None:
    model = Family("moe", "qwen3_moe", {"num_hidden_layers": 2}, seed=93).save(tmp_path).folder
    assert greedy(switch, model=model) == greedy(model=model)


@pytest.mark.parametrize("switch", ["flash_attn", "flash_decode"])
def test_the_attention_switches_reach_the_layers(switch: str) -> None:
    model = load_model("tiny", disabled=[switch])
    layers = [module for module in model.modules() if isinstance(module, Attention)]
    assert layers
    for layer in layers:
        assert (layer.prefill is attention_definition) == (switch == "flash_attn")
        assert (layer.decode is attention_definition) == (switch == "flash_decode")


RULES = ("chunked_delta_rule", "recurrent_delta_rule", "delta_step_in_place", "delta_step")


@pytest.fixture(scope="module")
def hybrid_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    fields = {"num_hidden_layers": 2, "layer_types": ["linear_attention", "full_attention"]}
    return hybrid("both", "qwen3_next", **fields).save(tmp_path_factory.mktemp("both")).folder


@pytest.mark.parametrize(
    ("disabled", "ran"),
    [
        ((), ["chunked_delta_rule", "delta_step_in_place"]),
        (("gdn_chunked",), ["recurrent_delta_rule", "delta_step_in_place"]),
        (("gdn_fused",), ["chunked_delta_rule", "delta_step"]),
    ],
)
def test_the_switches_of_the_delta_rule(
    disabled: tuple[str, ...], ran: list[str], hybrid_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What runs for a prompt, then for one token."""
    heard: list[str] = []

    def told(name: str) -> Callable[..., Any]:
        rule = getattr(delta, name)

        def run(*args: Any) -> Any:
            heard.append(name)
            return rule(*args)

        return run

    for name in RULES:
        monkeypatch.setattr(delta, name, told(name))
    model = load_model(hybrid_folder, dtype="float32", device="cpu", disabled=disabled)
    cache = model.new_cache(tokens=8)
    model.compute_logits([1, 2, 3], cache)
    model.compute_logits([4], cache, context=3)
    assert heard == ran


@pytest.mark.parametrize("disabled", [(), ("moe_fused",)])
def test_the_switch_of_experts(disabled: tuple[str, ...], hybrid_folder: Path) -> None:
    model = load_model(hybrid_folder, dtype="float32", device="cpu", disabled=disabled)
    (experts, _) = (module for module in model.modules() if isinstance(module, Experts))
    assert (experts.run is experts_definition) == bool(disabled)


@pytest.mark.parametrize("switch", ["quant_kernels", "large_pages"])
def test_the_switches_of_weights(switch: str) -> None:
    plain = load_model("tiny", disabled=[switch]).numerics.plain
    assert plain.kernels == (switch != "quant_kernels")
    assert plain.large_pages == (switch != "large_pages")


def test_every_switch_is_read_but_the_idle_ones() -> None:
    engine = Path(config.__file__).parent
    code = [path.read_text("utf-8") for path in engine.rglob("*.py") if path.name != "config.py"]
    read = {switch for switch in SWITCHES if any(f'"{switch}"' in text for text in code)}
    assert read == SWITCHES - IDLE_SWITCHES
