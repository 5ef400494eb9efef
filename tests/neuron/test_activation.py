"""The default models: loaded in order, tried again if that may help, given up in the end."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import anyio.lowlevel
import pytest

from helexa.errors import LoadError
from helexa.neuron.activation import ActivationTracker, activate
from helexa.neuron.ids import ModelSpec
from helexa.neuron.preflight import fetch_failed, no_such_quant
from helexa.protocol.control import ActivationStatus

pytestmark = pytest.mark.anyio


class Host:
    """Loads that fail as told, and a record of them and of the time that passed between them."""

    def __init__(self, *errors: Exception | None, always: Callable[[], Exception] | None = None):
        self.errors = list(errors)
        self.always = always
        self.calls: list[str] = []
        self.slept: list[float] = []

    async def load(self, spec: ModelSpec) -> None:
        self.calls.append(spec.model_id)
        await anyio.lowlevel.checkpoint()
        if self.always is not None:
            raise self.always()
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    async def run(self, *specs: ModelSpec, unavailable: str | None = None) -> ActivationStatus:
        tracker = ActivationTracker(spec.model_id for spec in specs)
        await activate(
            specs,
            tracker,
            self.load,
            harnesses=["candle"],
            unavailable=unavailable,
            sleep=self.sleep,
        )
        return tracker.status


def spec(id: str, **values: str) -> ModelSpec:
    return ModelSpec(model_id=id, **values)


def unreachable() -> Exception:
    return fetch_failed("huggingface:o/a", "the hub cannot be reached")


async def test_n012_empty() -> None:
    assert ActivationTracker().status == ActivationStatus(state="ready")
    assert await Host().run() == ActivationStatus(state="ready")


async def test_n013_unknown_harness() -> None:
    host = Host()
    status = await host.run(spec("o/a", harness="other"), spec("o/b", harness="other"))
    assert [failure.model_id for failure in status.failed] == ["o/a", "o/b"]
    assert "other" in status.failed[0].error
    assert (status.state, status.pending, host.calls) == ("ready", (), [])


async def test_n014_mismatch() -> None:
    host = Host()
    reason = "driver/library mismatch: reboot the host"
    status = await host.run(spec("o/a"), unavailable=reason)
    assert [failure.error for failure in status.failed] == [reason]
    assert (status.state, host.calls) == ("ready", [])


async def test_n015_transient() -> None:
    host = Host(unreachable(), unreachable())
    status = await host.run(spec("o/a"))
    assert status == ActivationStatus(state="ready", completed=("o/a",))
    assert (host.calls, host.slept) == (["o/a"] * 3, [10, 20])


async def test_n016_exhausted() -> None:
    host = Host(always=unreachable)
    status = await host.run(spec("o/a"))
    assert (len(host.calls), host.slept) == (7, [10, 20, 40, 80, 160, 300])
    assert [failure.model_id for failure in status.failed] == ["o/a"]
    assert (status.state, status.pending, status.in_progress) == ("ready", (), None)


async def test_n017_structural() -> None:
    host = Host(always=lambda: no_such_quant("huggingface:o/a", "q9", ["m-q4_k_m.gguf"]))
    status = await host.run(spec("o/a", quant="q9"))
    assert (len(host.calls), len(status.failed), host.slept) == (1, 1, [])


async def test_a_failure_tells_the_whole_story() -> None:
    cause = LoadError("cannot build the model")
    cause.__cause__ = OSError("disk on fire")
    status = await Host(cause).run(spec("o/a"))
    assert status.failed[0].error == "cannot build the model: disk on fire"


async def test_what_can_be_loaded_does_not_wait_for_what_cannot() -> None:
    host = Host(unreachable(), None, None)
    status = await host.run(spec("o/a"), spec("o/b"))
    assert host.calls == ["o/a", "o/b", "o/a"]
    assert status.completed == ("o/b", "o/a")


async def test_a_model_named_twice_is_loaded_once() -> None:
    host = Host()
    status = await host.run(spec("o/a"), spec("o/b"), spec("o/a"))
    assert host.calls == ["o/a", "o/b"]
    assert status.completed == ("o/a", "o/b")


async def test_the_real_pauses_are_waited_for() -> None:
    host, tracker = Host(unreachable()), ActivationTracker(["o/a"])
    before_s = anyio.current_time()
    await activate([spec("o/a")], tracker, host.load, harnesses=["candle"])
    assert anyio.current_time() - before_s == pytest.approx(10)


async def test_the_end_of_the_server_ends_the_loading() -> None:
    host, tracker = Host(always=unreachable), ActivationTracker(["o/a"])
    with anyio.move_on_after(15) as scope:
        await activate([spec("o/a")], tracker, host.load, harnesses=["candle"])
    assert scope.cancelled_caught
    assert tracker.status.pending == ("o/a",)


async def test_an_id_is_in_one_place_only() -> None:
    tracker = ActivationTracker(["a", "b", "a"])
    assert tracker.status.pending == ("a", "b")
    tracker.start("a")
    assert (tracker.status.pending, tracker.status.in_progress) == (("b",), "a")
    tracker.defer("a")
    tracker.defer("a")
    assert (tracker.status.pending, tracker.status.in_progress) == (("b", "a"), None)
    tracker.start("b")
    tracker.complete("b")
    tracker.start("a")
    tracker.fail("a", "why")
    assert (tracker.status.pending, tracker.status.completed) == ((), ("b",))
    assert tracker.status.state == "pre_warming"
    tracker.defer("c")
    tracker.mark_ready()
    assert (tracker.status.state, tracker.status.pending) == ("ready", ("c",))
