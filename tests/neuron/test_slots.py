"""One loaded model: what it takes, and what it says while its process is gone."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from helexa.engine.outputs import EngineStatus
from helexa.engine.params import SamplingParams
from helexa.errors import EngineLost, OutOfMemory
from helexa.loaded import Job
from helexa.neuron.admission import Admission
from helexa.neuron.api.answering import as_refusal
from helexa.neuron.config import AdmissionConfig, ContextLimitConfig
from helexa.neuron.ids import ModelSpec
from helexa.neuron.limits import Limits, Shape
from helexa.neuron.slots import Slot
from helexa.refusals import LowMemory, ModelRecovering

pytestmark = pytest.mark.anyio
JOB = Job((1, 2, 3), SamplingParams(max_tokens=5), cast("Any", None))


@dataclass
class FakeModel:
    """A model of which only the sizes matter."""

    device: str = "cuda:0"
    unused_mb: float = 0.0
    info: Any = field(init=False)

    def __post_init__(self) -> None:
        self.info = SimpleNamespace(device=self.device, weight_mb=10.25, pool_mb=5.5)

    def status(self) -> EngineStatus:
        return EngineStatus(unused_mb=self.unused_mb)


def slot(model: FakeModel) -> Slot:
    host = SimpleNamespace(
        state="recovering", load_s=9.0, recovering_since_s=0.0, facts=None, stuck=False
    )
    return Slot(
        ModelSpec(model_id="o/n"),
        (0,),
        cast("Any", model),
        cast("Any", host),
        Admission("o/n", AdmissionConfig()),
        Limits.of(ContextLimitConfig()),
        Shape(kv=2**20, longest_tokens=4096),
        4096,
    )


def test_memory_below_the_floor_takes_no_request() -> None:
    at = slot(FakeModel(unused_mb=100.0))
    assert at.check(JOB, 1400)[1] == 8  # what its allocator holds unused counts
    with pytest.raises(LowMemory) as low:
        at.check(JOB, 1399)
    assert (low.value.free_mb, low.value.required_mb) == (1499, 1500)


def test_a_sample_that_failed_changes_nothing() -> None:
    at = slot(FakeModel())
    assert at.check(JOB, 0)[1] == 8
    with pytest.raises(LowMemory):
        at.check(JOB, 100)
    with pytest.raises(LowMemory):
        at.check(JOB, 0)
    assert at.check(JOB, 9000)[1] == 8


def test_host_memory_has_no_floor() -> None:
    assert slot(FakeModel("cpu")).check(JOB, 100)[1] == 8


def test_out_of_memory_is_told_with_the_floor() -> None:
    told = as_refusal(slot(FakeModel()), OutOfMemory("none left", required_mb=9, free_mb=7))
    assert isinstance(told, LowMemory)
    assert (told.status, told.code, told.retry_after_s) == (503, "insufficient_vram", 5)
    assert told.extras == {"free_mb": 7, "required_mb": 1500}
    assert isinstance(as_refusal(slot(FakeModel()), EngineLost("dead")), ModelRecovering)


async def test_a_model_that_is_gone_admits_nobody() -> None:
    at = slot(FakeModel())
    async with at.seat("a/k", 3) as permit:
        at.changed("recovering")
        assert at.wire_status == "recovering"
        with pytest.raises(ModelRecovering) as refusal:
            await at.door.acquire(None)
        assert refusal.value.retry_after_s == 2
        at.changed("loaded")
        assert at.door.report().in_flight == 1
        (await at.door.acquire(None)).release()
        permit.release()
        assert (at.door.report().in_flight, len(at.permits)) == (0, 1)
    assert not at.permits


def test_an_answer_is_cut_to_what_its_claim_pays_for() -> None:
    at = slot(FakeModel("cpu"))
    asked = SamplingParams(max_tokens=9000, min_tokens=8000)
    job, claim_mb = at.check(Job((1,) * 100, asked, cast("Any", None)), 0)
    assert (job.params.max_tokens, job.params.min_tokens) == (3996, 3996)
    assert claim_mb == at.shape.kv * (100 + job.params.max_tokens) // 2**20
    assert at.context_tokens() == 4096
    same, _ = at.check(JOB, 0)
    assert same.params == JOB.params


def test_a_model_holds_its_weights_and_all_that_its_cache_has_claimed() -> None:
    at = slot(FakeModel())
    assert at.vram_used_mb == 16
    at.changed("recovering")
    assert at.vram_used_mb == 16
    at.changed("poisoned")
    assert at.vram_used_mb == 0
    at.host.stuck = True  # type: ignore[misc]  # a fake: its process is still there
    assert at.vram_used_mb == 16
