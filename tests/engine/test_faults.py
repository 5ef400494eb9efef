"""What goes wrong: aborts, unhealthy logits, memory that runs out, devices that fail."""

from __future__ import annotations

import weakref

import pytest
import torch

from helexa.engine.faults import device_failed, own_error
from helexa.engine.tracebacks import drop_locals
from helexa.errors import (
    DeviceError,
    EngineClosed,
    EngineLost,
    HelexaError,
    NumericalError,
    OutOfMemory,
)
from tests.engine.paged import END, VOCAB, Bench, alone


def test_E055_aborted_sequences_give_their_pages_back() -> None:
    bench = Bench(blocks=40, prefill_chunk_tokens=8)
    decoding = bench.submit([1] * 8, max_tokens=100, ignore_eos=True)
    bench.step()
    bench.step()
    prefilling = bench.submit([2] * 60, max_tokens=5)
    bench.step()
    waiting = bench.submit([3] * 9, max_tokens=5)
    instant = bench.submit([3], max_tokens=0)
    for request_id in (decoding, prefilling, waiting, instant, decoding, 999):
        bench.core.abort(request_id)
    assert bench.core.idle
    assert bench.core.status().kv_used_mb == 0
    assert bench.step() == []
    full = (8 + 2) // 4 + 8 // 4
    assert bench.core.status().cached_mb == full * 0.25


def test_E060_one_unhealthy_row_fails_alone() -> None:
    bench = Bench()
    expected = [alone(prompt, max_tokens=9) for prompt in ([1, 2], [5, 6, 7])]
    bench.runner.sick = {END}
    first, sick, second = (
        bench.submit(prompt, max_tokens=9) for prompt in ([1, 2], [4, 4, 4, 4, END], [5, 6, 7])
    )
    bench.run()
    (output,) = bench.outputs[sick]
    assert isinstance(output.error, NumericalError)
    assert str(output.error).startswith(f"logits unhealthy: len {VOCAB} nan 1 ")
    for request_id, wanted in zip((first, second), expected, strict=True):
        assert (bench.tokens(request_id), bench.last(request_id).finish_reason) == wanted


def test_E060_the_pages_of_an_unhealthy_row_are_not_kept() -> None:
    bench = Bench()
    bench.runner.sick = {END}
    bench.submit([4] * 10 + [END])
    bench.run()
    assert bench.core.status().cached_mb == 0


OUT_OF_MEMORY = [torch.OutOfMemoryError("full"), MemoryError("full")]


@pytest.mark.parametrize("fault", OUT_OF_MEMORY, ids=repr)
def test_E094_out_of_memory_fails_the_newcomers_of_its_step(fault: Exception) -> None:
    """Rows that decode beside them are retried, as are requests that wait."""
    bench = Bench(max_batch=4, prefill_chunk_tokens=12)
    rows = {(n,) * 5: bench.submit([n] * 5, max_tokens=30, ignore_eos=True) for n in (1, 2)}
    bench.step()
    newcomers = [bench.submit([n] * 30, max_tokens=9) for n in (3, 4)]
    waiting = bench.submit([5] * 5, max_tokens=9)
    for _ in range(3):  # the third takes the end of the first newcomer and some of the second
        bench.step()
    bench.runner.faults.append(fault)
    (first, second) = newcomers
    assert [output.id for output in bench.step()] == [second]
    assert isinstance(bench.last(second).error, OutOfMemory)
    bench.run()
    for prompt, request_id in rows.items():
        assert bench.tokens(request_id) == alone(prompt, max_tokens=30, ignore_eos=True)[0]
    assert bench.tokens(first) == alone([3] * 30, max_tokens=9)[0]
    assert bench.tokens(waiting) == alone([5] * 5, max_tokens=9)[0]
    assert bench.core.status().kv_used_mb == 0


def test_E094_out_of_memory_without_a_newcomer_fails_the_youngest_row() -> None:
    bench = Bench(max_batch=2)
    kept, lost = (bench.submit([n] * 5, max_tokens=9) for n in (1, 2))
    bench.step()
    bench.runner.faults.append(torch.OutOfMemoryError("full"))
    assert [output.id for output in bench.step()] == [lost]
    assert isinstance(bench.last(lost).error, OutOfMemory)
    bench.run()
    assert bench.tokens(kept) == alone([1] * 5, max_tokens=9)[0]
    assert bench.core.status().kv_used_mb == 0


def test_E094_the_sampler_may_run_out_of_memory_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def sample(*of: object) -> None:
        torch.empty(10**15)  # what torch raises for it is a plain RuntimeError

    bench = Bench()
    with monkeypatch.context() as patched:
        patched.setattr(bench.core._execution.sampler, "sample", sample)
        lost = bench.submit([1, 2, 3])
        bench.step()
    assert isinstance(bench.last(lost).error, OutOfMemory)
    kept = bench.submit([1, 2, 3], max_tokens=4)
    bench.run()
    assert bench.tokens(kept) == alone([1, 2, 3], max_tokens=4)[0]


def test_E094_three_in_a_row_are_a_device_fault() -> None:
    bench = Bench(max_batch=1)
    for n in range(7):
        bench.submit([n] * 5, max_tokens=2, ignore_eos=True)
    for _ in range(2):  # one that comes to its end begins the count anew
        bench.runner.faults = [MemoryError()]
        for _ in range(3):
            bench.step()
    bench.runner.faults = [torch.OutOfMemoryError() for _ in range(3)]
    bench.step()
    bench.step()
    with pytest.raises(DeviceError) as raised:
        bench.step()
    assert raised.value.out_of_memory
    assert bench.core.idle
    with pytest.raises(EngineLost):
        bench.submit([1])


def test_E094_a_row_that_goes_on_does_not_hide_that_nobody_can_begin() -> None:
    bench = Bench(max_batch=2)
    bench.submit([1] * 5, max_tokens=90, ignore_eos=True)
    bench.step()
    for n in (2, 3):
        lost = bench.submit([n] * 5)
        bench.runner.faults = [torch.OutOfMemoryError()]
        bench.step()
        assert isinstance(bench.last(lost).error, OutOfMemory)
        bench.step()  # the first has another token
    bench.submit([4] * 5)
    bench.runner.faults = [torch.OutOfMemoryError()]
    with pytest.raises(DeviceError):
        bench.step()


LAUNCH_FAILED = torch.AcceleratorError("launch failed")


class Activations:
    """Something large that a step holds in a local variable."""


@pytest.mark.parametrize(
    "fault",
    [torch.OutOfMemoryError("full"), ValueError("bug"), LAUNCH_FAILED],
    ids=lambda fault: type(fault).__name__,
)
def test_an_error_that_is_kept_holds_nothing_of_the_step(
    fault: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench()
    alive: list[weakref.ref[Activations]] = []

    def run(parts: object) -> None:
        activations = Activations()
        alive.append(weakref.ref(activations))
        raise fault

    monkeypatch.setattr(bench.runner, "run", run)
    request_id = bench.submit([1, 2, 3])
    if fault is not LAUNCH_FAILED:
        bench.step()
        assert bench.last(request_id).error.__cause__ is fault
    else:
        with pytest.raises(DeviceError) as raised:
            bench.step()
        drop_locals(raised.value)
        assert raised.value.__cause__ is fault
    assert alive[0]() is None
    assert fault.__traceback__ is not None


@pytest.mark.parametrize("fault", [LAUNCH_FAILED, DeviceError("gone")], ids=repr)
def test_a_fault_of_the_device_ends_the_core(fault: Exception) -> None:
    bench = Bench()
    bench.submit([1, 2, 3])
    bench.runner.faults = [fault]
    with pytest.raises(DeviceError, match=str(fault)) as raised:
        bench.step()
    assert fault in (raised.value, raised.value.__cause__)
    assert bench.core.idle
    assert bench.core.status().kv_used_mb == 0


@pytest.mark.parametrize("fault", [RuntimeError("a bad shape"), ValueError("bug")], ids=repr)
def test_n140_any_other_fault_fails_what_its_step_began(fault: Exception) -> None:
    """Not the device's: the state it keeps is that of before the step, so what ran goes on."""
    bench = Bench(max_batch=4)
    rows = {(n,) * 5: bench.submit([n] * 5, max_tokens=30, ignore_eos=True) for n in (1, 2)}
    bench.step()
    bench.step()
    lost = bench.submit([3] * 9, max_tokens=9)
    bench.runner.faults = [fault]
    assert [output.id for output in bench.step()] == [lost]
    error = bench.last(lost).error
    assert type(error) is HelexaError
    assert (error.status, error.code, str(fault) in str(error)) == (500, None, True)
    bench.run()
    for prompt, request_id in rows.items():
        assert bench.tokens(request_id) == alone(prompt, max_tokens=30, ignore_eos=True)[0]
    again = bench.submit([3] * 9, max_tokens=9)
    bench.run()
    assert bench.tokens(again) == alone([3] * 9, max_tokens=9)[0]
    assert bench.core.status().kv_used_mb == 0


def test_a_fault_that_comes_again_fails_all_of_its_step() -> None:
    """It was not the new one's then; whose it was cannot be told."""
    bench = Bench(max_batch=2)
    old = bench.submit([1] * 5, max_tokens=30, ignore_eos=True)
    bench.step()
    new, waiting = (bench.submit([n] * 5, max_tokens=9) for n in (2, 3))
    bench.runner.faults = [ValueError("bug"), ValueError("bug")]
    assert [output.id for output in bench.step()] == [new]
    assert {output.id for output in bench.step()} == {old, waiting}
    assert bench.core.idle
    assert bench.core.status().kv_used_mb == 0
    last = bench.submit([4] * 5, max_tokens=9)
    bench.run()
    assert bench.tokens(last) == alone([4] * 5, max_tokens=9)[0]


def test_whose_fault_an_exception_is() -> None:
    """An accelerator that has failed fails again when it is waited for; so does a missing one."""
    for error in (LAUNCH_FAILED, DeviceError("gone")):
        assert device_failed(error, "cpu")
    assert not device_failed(RuntimeError("a bad shape"), "cpu")
    assert device_failed(RuntimeError("a bad shape"), "cuda:0") is not torch.cuda.is_available()


def test_what_ends_a_program_is_nobodys_own() -> None:
    with pytest.raises(KeyboardInterrupt):
        own_error(KeyboardInterrupt())


def test_a_closed_core_takes_nothing() -> None:
    bench = Bench()
    bench.submit([1, 2, 3])
    bench.core.close()
    bench.core.close()
    assert bench.core.idle
    assert bench.step() == []
    with pytest.raises(EngineClosed):
        bench.submit([1])
