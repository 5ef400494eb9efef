"""Models with layers of the gated delta rule: logits, borders of chunks, states, damage."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration

from helexa.engine.kernels import delta_rule
from helexa.engine.layers.delta import GatedDelta
from helexa.engine.loading import load_model
from helexa.engine.models.model import Model
from helexa.engine.runner import Runner
from tests.engine.models.families import (
    EXPERTS,
    SHAPE,
    Reference,
    cosine,
    hybrid,
    prompt,
    run_chunks,
    scattered,
    worst,
)
from tests.engine.models.test_parity import greedy

TOLERANCE = 1e-3
LENGTHS = (1, 63, 64, 65, 130, 700)
LONG = {"max_position_embeddings": 1024}
FAMILIES = (
    hybrid("qwen3_5", **LONG),
    hybrid("qwen3_next", "qwen3_next", **LONG),
    hybrid("qwen3_5_moe", "qwen3_5_moe", **LONG),
    hybrid("few-layers", **LONG, num_hidden_layers=4, linear_num_value_heads=2),
    hybrid("wide-kernel", **LONG, num_hidden_layers=4, linear_conv_kernel_dim=6),
    hybrid("tied", **LONG, num_hidden_layers=4, tie_word_embeddings=True),
)
BY_NAME = {family.name: family for family in FAMILIES}
KINDS = tuple(dict.fromkeys(family.kind for family in FAMILIES))


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Reference]:
    """The checkpoint of a family, made when first asked for."""
    return cache(lambda name: BY_NAME[name].save(tmp_path_factory.mktemp(name)))


@pytest.fixture(scope="module")
def exact(reference: Callable[[str], Reference]) -> Callable[[str], Model]:
    """The same checkpoint loaded by us, in float32."""
    return cache(lambda name: load_model(reference(name).folder, dtype="float32"))


@pytest.mark.parametrize("name", BY_NAME)
def test_e001_every_position_matches(name: str, reference: Callable, exact: Callable) -> None:
    for length in LENGTHS:
        expected = reference(name).logits(prompt(length))
        ours = exact(name).compute_logits(prompt(length))
        assert worst(ours, expected) < TOLERANCE, length
        assert cosine(ours, expected) > 0.9999


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64, 100])
@pytest.mark.parametrize("kind", KINDS)
def test_e005_e051_chunks_match(kind: str, size: int, reference: Callable, exact: Callable) -> None:
    expected = reference(kind).logits(prompt(200))
    blocks = scattered(200)
    assert worst(run_chunks(exact(kind), prompt(200), size, blocks), expected) < TOLERANCE


@pytest.mark.parametrize("border", range(1, 9))
@pytest.mark.parametrize("kind", KINDS)
def test_e005_a_border_at_every_offset(
    kind: str, border: int, reference: Callable, exact: Callable
) -> None:
    model, expected = exact(kind), reference(kind).logits(prompt(75))
    state = model.new_cache(tokens=75)
    model.compute_logits(prompt(75)[:border], state)
    rest = model.compute_logits(prompt(75)[border:], state, context=border)
    assert worst(rest, expected[border:]) < TOLERANCE


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_tokens_match(kind: str, reference: Callable, exact: Callable) -> None:
    found = greedy(exact(kind), prompt(40), 64)
    assert [token for token, _ in found] == reference(kind).greedy(prompt(40), 64)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sequence_does_not_notice_its_neighbours(kind: str, exact: Callable) -> None:
    """Prompts of 1 to 90 tokens, then two decode steps beside a late prompt, in odd slots."""
    model, count = exact(kind), 9
    prompts = [[(11 * i + 5 * n) % 512 for n in range(1 + 37 * i % 90)] for i in range(count)]
    tables = [range(6 * i, 6 * i + 6) for i in range(count)]
    slots = [(5 * i) % count for i in range(count)]
    together = Runner(model, model.new_cache(6 * count, states=count))
    rows = list(zip(prompts, tables, slots, strict=True))
    logits = together.run([(ids, 0, table, True, slot) for ids, table, slot in rows[1:]])
    first = [[], *logits.argmax(-1).tolist()]
    late = [(*rows[0][:1], 0, rows[0][1], True, rows[0][2])]
    step = [([first[i]], len(rows[i][0]), rows[i][1], True, rows[i][2]) for i in range(1, count)]
    second = together.run([*late, *step])
    for i, (ids, _, _) in enumerate(rows):
        alone = Runner(model, model.new_cache(6))
        after = alone.run([(ids, 0, range(6), True)])
        if i:
            assert worst(after, logits[i - 1 : i]) < 1e-4
            after = alone.run([([first[i]], len(ids), range(6), True)])
        assert worst(after, second[i : i + 1]) < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_e044_a_state_that_is_put_back(kind: str, exact: Callable) -> None:
    """A copy of a state, other work in its slot, and the copy again: as if nothing had been."""
    model, ids = exact(kind), prompt(150)
    runner = Runner(model, model.new_cache(20, states=3))
    runner.run([(ids[:100], 0, range(10), False, 0)])
    whole = model.compute_logits(ids)[-1:]
    runner.cache.states.copy(0, 2)
    rest = [runner.run([(ids[100:], 100, range(10), True, 0)])]
    for _ in range(2):
        runner.run([(prompt(60)[::-1], 0, range(10, 20), False, 0)])
        runner.cache.states.copy(2, 0)
        rest.append(runner.run([(ids[100:], 100, range(10), True, 0)]))
    assert worst(rest[0], whole) < 1e-4
    assert torch.equal(rest[1], rest[0]) and torch.equal(rest[2], rest[0])


def test_a_model_that_also_sees_is_loaded_for_text(tmp_path: Path) -> None:
    """Its decoder is nested, in the config and in the names of the weights."""
    family = hybrid("text", **LONG, num_hidden_layers=4)
    rope = {"rope_type": "default", "rope_theta": 1e7, **family.rope}
    text = {**SHAPE, **family.fields, "rope_parameters": rope}
    sight = {"depth": 1, "hidden_size": 32, "num_heads": 2, "intermediate_size": 48}
    sight |= {"out_hidden_size": 64, "num_position_embeddings": 64}
    config = Qwen3_5Config(text_config=text, vision_config=sight, tie_word_embeddings=False)
    config.text_config._attn_implementation = "eager"
    torch.manual_seed(92)
    model = Qwen3_5ForConditionalGeneration(config).eval()
    model.save_pretrained(tmp_path)
    expected = Reference(tmp_path, model).logits(prompt(70))
    ours = load_model(tmp_path, dtype="float32")
    assert worst(ours.compute_logits(prompt(70)), expected) < TOLERANCE


@pytest.mark.parametrize("switch", ["gdn_chunked", "gdn_fused"])
@pytest.mark.parametrize("kind", KINDS)
def test_e099_switches(kind: str, switch: str, reference: Callable, exact: Callable) -> None:
    slow = load_model(reference(kind).folder, dtype="float32", disabled=[switch])
    expected = [token for token, _ in greedy(exact(kind), prompt(70), 16)]
    assert [token for token, _ in greedy(slow, prompt(70), 16)] == expected


def test_e100_a_prompt_that_only_repeats(
    reference: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [7, 9] * 2048
    fast = load_model(reference("few-layers").folder, dtype="float32")
    slow = load_model(reference("few-layers").folder, dtype="float32", disabled=["gdn_chunked"])
    for start in range(0, len(ids), 512):  # no position is beyond what the model is made for
        part = ids[start : start + 512]
        assert worst(fast.compute_logits(part), slow.compute_logits(part)) < 5e-3
    q, v = torch.randn(2, 1, 4096, 2, 16, generator=torch.Generator().manual_seed(3))
    k = q[:, :1].expand_as(q) / q[:, :1].norm(dim=-1, keepdim=True)
    gates = torch.full((1, 4096, 2), -1e-3), torch.full((1, 4096, 2), 0.99)
    state = torch.zeros(1, 2, 16, 16)
    chunked = delta_rule.chunked_delta_rule(q, k, v, *gates, state)
    exact = delta_rule.recurrent_delta_rule(q, k, v, *gates, state)
    assert worst(chunked[0], exact[0]) < 5e-3 and worst(chunked[1], exact[1]) < 5e-3


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("kind", KINDS)
def test_16_bits_stay_close(
    kind: str, stored: torch.dtype, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("helexa.engine.quant.dense.SMALL_MATRIX", 0)
    experts = {} if kind == "qwen3_5" else {"num_experts_per_tok": EXPERTS["num_experts"]}
    family = hybrid(kind, kind, num_hidden_layers=4, **experts)  # rounding chooses none
    made = type(family)(**{**vars(family), "dtype": stored}).save(tmp_path)
    made.model.float()
    ours = load_model(made.folder, device="cpu", disabled=())
    assert cosine(ours.compute_logits(prompt(130)), made.logits(prompt(130))) > 0.99


def gates_in_halves(model: Any) -> None:
    """All queries first, then all gates, instead of a query and a gate for each head."""
    attention = model.layers[3].mixer
    weight = attention.qkv.weight.tensor
    both = weight[: 2 * 4 * 32].view(4, 2, 32, 64)
    weight[: 2 * 4 * 32] = both.transpose(0, 1).reshape(-1, 64).clone()


def norm_around_zero(model: Any) -> None:
    """w where it should be 1 + w."""
    norm = model.layers[0].input_norm
    norm.gain = norm.gain - norm.size**0.5


def forget_inputs(model: Any) -> None:
    """The convolution's inputs are lost at every border."""

    def forget(_: Any, args: Any) -> None:
        args[2].conv.zero_()

    for layer in model.layers:
        if isinstance(layer.mixer, GatedDelta):
            layer.mixer.register_forward_pre_hook(forget)


def tiled_heads(model: Any) -> None:
    """Value head j gets key head j mod Hk."""
    for layer in model.layers:
        if isinstance(layer.mixer, GatedDelta):
            shape = layer.mixer.delta
            layer.mixer.delta = type(shape)(*shape_values(shape)[:-1], True)


def shape_values(shape: Any) -> list[Any]:
    return [getattr(shape, name) for name in shape.__slots__]


DAMAGE = [gates_in_halves, norm_around_zero, forget_inputs, tiled_heads]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_noticed(kind: str, damage: Callable[[Any], None], reference: Callable) -> None:
    expected = reference(kind).logits(prompt(96))
    model = load_model(reference(kind).folder, dtype="float32")
    blocks = list(range(6))
    assert worst(run_chunks(model, prompt(96), 32, blocks), expected) < TOLERANCE
    damage(model)
    with torch.inference_mode():
        broken = run_chunks(model, prompt(96), 32, blocks)
    assert worst(broken, expected) > 10 * TOLERANCE


@pytest.mark.parametrize("length", [1, 20])
def test_the_last_owner_of_a_slot_is_forgotten(length: int, exact: Callable) -> None:
    model, ids = exact("qwen3_5"), prompt(length)
    used = model.new_cache(tokens=64)
    used.states.recurrent.fill_(3.0)
    used.states.conv.fill_(3.0)
    assert torch.equal(model.compute_logits(ids, used), model.compute_logits(ids))
