"""The sampler as a whole: rows that do not know of each other, errors of one, log-probabilities."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from helexa.engine.kernels.stored_matrix import has_triton
from helexa.engine.params import GenerationDefaults, SamplingParams, resolve
from helexa.engine.sampling import Sampled, Sampler, SampleRow, health_record
from helexa.errors import NumericalError

VOCAB = 1000
GREEDY: dict[str, Any] = {"temperature": 0}


def row(
    *generated: int, blocked: tuple[int, ...] = (), vocab_size: int = VOCAB, **params: Any
) -> SampleRow:
    resolved = resolve(SamplingParams(**params), GenerationDefaults(), vocab_size)
    return SampleRow(resolved, generated, blocked)


def noise(seed: int, rows: int = 1, vocab_size: int = VOCAB) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, vocab_size, generator=generator) * 3


def sample(logits: Tensor, *rows: SampleRow) -> list[Sampled]:
    return Sampler(logits.shape[1]).sample(logits, rows)


KINDS: list[dict[str, Any]] = [
    GREEDY,
    {"seed": 1},
    {"seed": 2, "top_k": 20, "top_p": 0.95},
    {"seed": 3, "top_p": 0.9, "logprobs": 5},
    {"seed": 4, "temperature": 3.0},
    {"seed": 5, "min_p": 0.1, "repetition_penalty": 1.3},
    {"temperature": 0, "presence_penalty": 1.5, "frequency_penalty": 1.0, "logprobs": 0},
    {"seed": 6, "logit_bias": {3: 12.0}, "logprobs": 20},
    {"seed": 7, "top_k": 500, "temperature": 5.0},
]


@pytest.mark.parametrize("vocab_size", [1001, 128 * 150])
@pytest.mark.parametrize("coarse", [False, True], ids=["distinct", "many equal"])
def test_e065_a_row_gets_the_same_alone_and_in_any_batch(vocab_size: int, coarse: bool) -> None:
    logits = noise(0, len(KINDS), vocab_size)
    if coarse:
        logits = logits.round()
    rows = [row(3, 4, 3, blocked=(9,), vocab_size=vocab_size, **kind) for kind in KINDS]
    together = sample(logits, *rows)
    alone = [sample(logits[i : i + 1].clone(), r)[0] for i, r in enumerate(rows)]
    backwards = sample(logits.flip(0), *reversed(rows))
    assert together == alone
    assert together == backwards[::-1]


def test_e065_seeds() -> None:
    logits = noise(1)
    steps = range(30)

    def tokens(**params: Any) -> list[int]:
        rows = [row(*range(step), temperature=1.5, **params) for step in steps]
        return [sample(logits, r)[0].token_id for r in rows]

    assert tokens(seed=11) == tokens(seed=11)
    assert tokens(seed=11) != tokens(seed=12)
    assert tokens() != tokens()


def test_e060_one_unhealthy_row_fails_alone() -> None:
    logits = noise(2, 3)
    rows = [row(seed=1), row(seed=2), row(**GREEDY)]
    healthy = sample(logits, *rows)
    broken = logits.clone()
    broken[1] = 0.0
    broken[1, :4] = torch.tensor([math.nan, math.inf, -math.inf, -2.0])
    broken[1, 4] = 6.0
    result = sample(broken, *rows)
    assert [result[0], result[2]] == [healthy[0], healthy[2]]
    assert result[1].token_id == -1
    assert isinstance(result[1].error, NumericalError)
    assert result[1].error.message == (
        "logits unhealthy: len 1000 nan 1 +inf 1 -inf 1 negative 1 min -2 max 6 mean 0.00401204"
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_e060_what_is_masked_is_checked_too(bad: float) -> None:
    logits = noise(3)
    logits[0, 7] = bad
    assert sample(logits, row(blocked=(7,)))[0].error is not None


def test_the_record_of_a_row_without_numbers() -> None:
    record = health_record(torch.full((3,), math.nan))
    assert record.endswith("nan 3 +inf 0 -inf 0 negative 0 min nan max nan mean nan")


def test_a_row_that_allows_nothing_fails_alone() -> None:
    result = sample(torch.zeros(2, 3), row(blocked=(0, 1, 2), vocab_size=3), row(vocab_size=3))
    assert result[0].error is not None
    assert "none of 3 tokens may be chosen" in str(result[0].error)
    assert result[1].error is None
    assert sample(torch.full((1, 3), -math.inf), row(vocab_size=3))[0].error is not None


@pytest.mark.parametrize("temperature", [0, -1])
def test_e062_greedy_takes_the_best(temperature: float) -> None:
    logits = noise(4, 5)
    rows = [row(temperature=temperature, top_k=20, seed=i) for i in range(5)]
    assert [s.token_id for s in sample(logits, *rows)] == logits.argmax(-1).tolist()


@pytest.mark.parametrize("ids", [(0, 1), (5, 999), (127, 128), (300, 301, 700)])
def test_e062_greedy_takes_the_lowest_of_equals(ids: tuple[int, ...]) -> None:
    logits = torch.zeros(1, VOCAB)
    logits[0, list(ids)] = 1.5
    assert sample(logits, row(**GREEDY))[0].token_id == ids[0]


def test_blocked_tokens_do_not_come() -> None:
    logits = torch.zeros(1, VOCAB)
    logits[0, 17], logits[0, 18] = 9.0, 8.0
    assert sample(logits, row(**GREEDY, blocked=(17,)))[0].token_id == 18
    assert sample(logits, row(seed=1, temperature=0.1, blocked=(17,)))[0].token_id == 18


def test_the_callers_logits_are_left_as_they_are() -> None:
    logits = noise(5, len(KINDS))
    before = logits.clone()
    sample(logits, *(row(3, blocked=(9,), **kind) for kind in KINDS))
    assert torch.equal(logits, before)


def test_e067_logprobs_are_of_the_raw_row() -> None:
    logits = noise(6)
    truth = torch.log_softmax(logits[0].double(), -1)
    asked = row(1, 2, seed=3, temperature=2.0, repetition_penalty=1.5, logprobs=5)
    result = sample(logits, asked)[0]
    assert result.logprob is not None
    assert result.logprob.token_id == result.token_id
    assert result.logprob.logprob == pytest.approx(truth[result.token_id].item(), abs=1e-5)
    best = truth.topk(5)
    assert [i for i, _ in result.logprob.top] == best.indices.tolist()
    assert [p for _, p in result.logprob.top] == pytest.approx(best.values.tolist(), abs=1e-5)


def test_e067_no_alternatives_still_reports_the_token() -> None:
    result = sample(noise(7), row(**GREEDY, logprobs=0))[0]
    assert result.logprob is not None
    assert result.logprob.top == ()
    assert sample(noise(7), row(**GREEDY))[0].logprob is None


def test_e067_alternatives_are_numbers_and_equals_come_by_id() -> None:
    logits = torch.full((1, 400), -math.inf)
    logits[0, [300, 20, 4]] = 0.0
    result = sample(logits, row(vocab_size=400, **GREEDY, logprobs=20))[0]
    assert result.logprob is not None
    assert [i for i, _ in result.logprob.top] == [4, 20, 300]
    flat = sample(torch.zeros(1, 400), row(vocab_size=400, **GREEDY, logprobs=3))[0]
    assert flat.logprob is not None
    assert [i for i, _ in flat.logprob.top] == [0, 1, 2]


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match=r"\[2, 1000\], expected \[1, 1000\]"):
        sample(noise(8, 2), row())
    assert sample(torch.zeros(0, VOCAB)) == []


WAYS: list[dict[str, Any]] = [
    *KINDS,
    {"seed": 8, "top_p": 0.8, "temperature": 1.0, "logprobs": 2},
    {"seed": 9, "logprobs": 1},
    {"seed": 10, "min_p": 0.2, "temperature": 0.6, "presence_penalty": 0.5, "logprobs": 3},
    {"seed": 11, "top_k": 3, "repetition_penalty": 1.2, "logprobs": 0},
    {"seed": 12, "top_k": 40, "top_p": 0.7, "min_p": 0.05},
    {"seed": 13, "top_k": 1},
]


BY_KERNEL = pytest.param(
    True,
    id="by kernels",
    marks=pytest.mark.skipif(not has_triton(), reason="there is no triton for this machine"),
)
AHEAD = pytest.mark.parametrize("kernels", [pytest.param(False, id="by torch"), BY_KERNEL])


@AHEAD
@pytest.mark.parametrize("vocab_size", [700, 1001, 128 * 150])
@pytest.mark.parametrize("coarse", [False, True], ids=["distinct", "many equal"])
def test_reading_ahead_changes_nothing(vocab_size: int, coarse: bool, kernels: bool) -> None:
    logits = noise(10, len(WAYS) + 3, vocab_size)
    if coarse:
        logits = logits.round()
    logits[-1, 3], logits[-2, 4], logits[-3] = math.nan, math.inf, -math.inf
    ways = [*WAYS, KINDS[1], {**KINDS[2], "logprobs": 1}, KINDS[3]]
    rows = [row(3, 4, 3, blocked=(9,), vocab_size=vocab_size, **way) for way in ways[::2]]
    rows += [row(5, vocab_size=vocab_size, **way) for way in ways[1::2]]
    rows = [rows[i // 2 + i % 2 * -(-len(ways) // 2)] for i in range(len(ways))]
    plain = Sampler(vocab_size).sample(logits, rows)
    ahead = Sampler(vocab_size, reads_ahead=True, kernels=kernels).sample(logits, rows)
    assert [s.token_id for s in ahead] == [s.token_id for s in plain]
    assert [s.error is None for s in ahead] == [s.error is None for s in plain]
    for ours, theirs in zip(ahead, plain, strict=True):
        assert (ours.logprob is None) == (theirs.logprob is None)
        if ours.logprob is not None and theirs.logprob is not None:
            assert ours.logprob.logprob == pytest.approx(theirs.logprob.logprob, abs=1e-6)
            assert [i for i, _ in ours.logprob.top] == [i for i, _ in theirs.logprob.top]


@AHEAD
def test_what_was_read_ahead_is_enough(monkeypatch: pytest.MonkeyPatch, kernels: bool) -> None:
    def late(*_: Any) -> None:
        raise AssertionError("the device is read again")

    for name in ("top", "mass", "draw", "logit"):
        monkeypatch.setattr(f"helexa.engine.ranking.Blocks.{name}", late)
    size = 128 * 150
    logits = noise(11, len(WAYS), size) * 2
    rows = [row(3, 4, 3, vocab_size=size, **{**way, "temperature": 0.7}) for way in WAYS]
    rows[-1] = row(vocab_size=size, **{**GREEDY, "logprobs": 4, "logit_bias": {5: 30.0}})
    result = Sampler(size, reads_ahead=True, kernels=kernels).sample(logits, rows)
    assert all(sampled.error is None for sampled in result)
    assert result[-1].token_id == 5


@pytest.mark.gpu
@AHEAD
def test_a_gpu_is_read_once_a_step(kernels: bool) -> None:
    size = 128 * 150
    logits = (noise(11, len(WAYS), size) * 2).cuda()
    rows = [row(3, 4, 3, vocab_size=size, **{**way, "temperature": 0.7}) for way in WAYS]
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with pytest.warns(UserWarning, match="synchronizing") as seen:
            Sampler(size, kernels=kernels).sample(logits, rows)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(seen) == 1


@pytest.mark.gpu
@AHEAD
@pytest.mark.parametrize("coarse", [False, True], ids=["distinct", "many equal"])
def test_a_gpu_chooses_what_the_cpu_does(coarse: bool, kernels: bool) -> None:
    logits = noise(9, len(KINDS), 128 * 150)
    if coarse:
        logits = logits.round()
    rows = [row(3, 4, 3, vocab_size=128 * 150, **kind) for kind in KINDS]
    on_cpu = [s.token_id for s in sample(logits, *rows)]
    sampler = Sampler(128 * 150, kernels=kernels)
    assert [s.token_id for s in sampler.sample(logits.cuda(), rows)] == on_cpu
