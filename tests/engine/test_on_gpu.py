"""Whole models on a GPU: what kernels and recorded steps must not change, nor wait for."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from helexa.engine.batch import Part
from helexa.engine.build import build_core
from helexa.engine.config import EngineConfig
from helexa.engine.graphs import SYNCHRONISES, decode_graphs, waits_noticed
from helexa.engine.kernels.attention import attention, attention_definition
from helexa.engine.loading import load_model
from helexa.engine.outputs import Request
from helexa.engine.params import SamplingParams
from helexa.engine.runner import Runner
from helexa.engine.sampling import Sampler, SampleRow
from tests.engine.answers import PAGE, Answers, script
from tests.engine.models.families import cosine, prompt
from tests.engine.models.interpreted import FAMILIES
from tests.engine.test_switches import greedy

pytestmark = pytest.mark.gpu
EVERY = ("flash_attn", "flash_decode", "gdn_chunked", "gdn_fused", "moe_fused", "fused_ops")
SWITCHED = [EVERY, *((name,) for name in (*EVERY, "fused_rows", "cuda_graphs", "look_ahead"))]


@pytest.mark.parametrize("name", FAMILIES)
def test_fast_paths_change_no_token(name: str, tmp_path: Path) -> None:
    FAMILIES[name].save(tmp_path)
    expected = greedy(model=tmp_path, device="cpu")
    assert greedy(model=tmp_path, device="cuda") == expected
    for disabled in SWITCHED:
        assert greedy(*disabled, model=tmp_path, device="cuda") == expected, disabled


@pytest.mark.parametrize("name", FAMILIES)
def test_replayed_steps_are_the_plain_ones(name: str, tmp_path: Path) -> None:
    FAMILIES[name].save(tmp_path)
    model = load_model(tmp_path, device="cuda", dtype="float32")
    assert model.numerics.cuda_graphs
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a model that is not recorded warns
        replayed = script(Answers(model, lambda cache: decode_graphs(model, cache)))
    assert replayed == script(Answers(model, lambda cache: None))


def test_steps_are_launched_ahead(tmp_path: Path) -> None:
    """And what they leave is what was asked for, but for the last answer's end."""
    FAMILIES["qwen3"].save(tmp_path)
    core = build_core(tmp_path, EngineConfig(device="cuda", dtype="bfloat16"))
    ways = [{"temperature": 0}, {"temperature": 0.7, "top_k": 20, "top_p": 0.95, "seed": 1}]
    for way in ways:
        core.submit(
            Request(tuple(prompt(9)), SamplingParams(max_tokens=40, ignore_eos=True, **way))
        )
    while not core.idle:
        core.step()
    steps = core._execution.runner.steps_ahead
    core.close()
    assert steps.used > 30
    assert steps.used >= steps.launched - 2


@pytest.mark.parametrize("name", FAMILIES)
def test_16_bits_are_close(name: str, tmp_path: Path) -> None:
    reference = FAMILIES[name].save(tmp_path)
    ids = prompt(70)
    model = load_model(tmp_path, device="cuda", dtype="bfloat16")
    assert cosine(model.compute_logits(ids).cpu(), reference.logits(ids)) > 0.99


@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_host_does_not_wait_in_a_step(name: str, graphs: bool, tmp_path: Path) -> None:
    FAMILIES[name].save(tmp_path)
    model = load_model(tmp_path, device="cuda", dtype="bfloat16")
    cache = model.new_cache(40, PAGE, states=2)
    runner = Runner(model, cache, graphs=decode_graphs(model, cache) if graphs else None)
    blocks = [[4, 1, 9, 2], [0, 7, 3, 8]]
    steps = [
        [Part(prompt(5), 0, blocks[0], True, 0), Part(prompt(7), 0, blocks[1], True, 1)],
        [Part([5], 5, blocks[0], True, 0), Part([9], 7, blocks[1], True, 1)],
        [Part([6], 6, blocks[0], True, 0), Part([8, 1], 8, blocks[1], True, 1)],
    ]
    for step in steps:  # kernels are compiled, steps are recorded
        runner.run(step)
    with waits_noticed("error"):
        for step in steps:
            runner.run(step)


def waits(sampler: Sampler, logits: torch.Tensor, rows: list[SampleRow]) -> int:
    """How often the host waits for the device until tokens are chosen."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with waits_noticed("warn"):
            sampler.sample(logits, rows)
    return sum(SYNCHRONISES in str(warning.message) for warning in caught)


@pytest.mark.parametrize("kernels", [True, False], ids=["by kernels", "by torch"])
def test_the_host_waits_once_to_choose(kernels: bool) -> None:
    vocab = 128 * 100
    logits = torch.randn(4, vocab, device="cuda")
    sampler = Sampler(vocab, kernels=kernels)
    plain = {"repetition_penalty": 1.0, "repeat_last_n": 64, "min_p": 0.0, "seed": 1}
    kinds = [
        SamplingParams(temperature=0.0, top_k=0, top_p=1.0, **plain),
        SamplingParams(temperature=0.7, top_k=20, top_p=0.9, **plain),
        SamplingParams(temperature=0.7, top_k=0, top_p=1.0, **plain),
        SamplingParams(temperature=0.7, top_k=0, top_p=0.9, **plain),
    ]
    counts = []
    for kind in kinds:
        rows = [SampleRow(kind)] * 4
        sampler.sample(logits, rows)
        counts.append(waits(sampler, logits, rows))
    assert counts == [1] * len(kinds)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(4, 2, 64), (16, 8, 128), (4, 1, 256), (3, 3, 80)], ids=str)
@pytest.mark.parametrize(("length", "total"), [(64, 64), (5, 70), (130, 700), (513, 1030)])
def test_chunks_of_prompts(
    length: int, total: int, shape: tuple[int, int, int], dtype: torch.dtype
) -> None:
    heads, groups, dim = shape
    generator = torch.Generator("cuda").manual_seed(length)
    options = {"generator": generator, "device": "cuda"}
    q = torch.randn(length, heads, dim, **options).to(dtype)
    kv = torch.randn(2, groups, total, dim, **options).to(dtype)
    expected = attention_definition(q.float(), kv.float())
    allowed = {torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 3e-2}[dtype]
    assert (attention(q, kv).float() - expected).abs().max() < allowed
