"""The hardware of a host, from drivers and files made for the test."""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from helexa.neuron.discovery import Hardware, Sample, Sampler
from helexa.neuron.machine import (
    CpuTimes,
    HostSample,
    Machine,
    cpu_name,
    cpu_times,
    os_name,
    read_machine,
    sample_host,
)
from helexa.neuron.nvml import Cards, NvmlFailed, cuda_version, mismatch_reason, read_cards
from helexa.protocol.control import (
    ActivationStatus,
    BuildInfo,
    DeviceHealth,
    DeviceInfo,
    HealthResponse,
    HostHealth,
    ModelLoad,
)
from tests.waiting import wait_until

MIB = 2**20
NVRM = "NVRM version: NVIDIA UNIX Kernel Module  580.159.03  Wed Jan 1 2026\nGCC version: 12.2\n"


class NVMLError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(f"error {value}")
        self.value = value


class Driver:
    """The functions of the driver's module that are used; the second of two cards is dumb."""

    NVMLError = NVMLError
    NVML_TEMPERATURE_GPU = 0

    def __init__(self, fails: int | None = None, *, later: bool = False) -> None:
        self.fails, self.later, self.open = fails, later, 0

    def nvmlInit(self) -> None:
        if self.fails and not self.later:
            raise NVMLError(self.fails)
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        if self.fails:
            raise NVMLError(self.fails)
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetName(self, handle: int) -> str | bytes:
        return b"NVIDIA Old" if handle else "NVIDIA H200"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:
        return SimpleNamespace(total=100 * MIB, used=30 * MIB, free=70 * MIB)

    def nvmlDeviceGetCudaComputeCapability(self, handle: int) -> tuple[int, int]:
        return (7, 5) if handle else (9, 0)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> SimpleNamespace:
        if handle:
            raise NVMLError(3)
        return SimpleNamespace(gpu=42)

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:
        if handle:
            raise NVMLError(3)
        return 55

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.159.03"

    def nvmlSystemGetCudaDriverVersion(self) -> int:
        return 12080


MACHINE = Machine("host-a", "Debian", "6.1", read_machine().facts)
HOST = HostSample(HostHealth(memory_total_mb=1000, memory_available_mb=600), CpuTimes(0, 0), 25)


def hardware(cards: Cards, *, report_cpu: bool = True) -> Hardware:
    return Hardware(MACHINE, Sample(cards, HOST), report_cpu)


def test_cards_as_the_driver_tells_them() -> None:
    driver = Driver()
    cards = read_cards(driver)
    assert cards.devices == (
        DeviceInfo(index=0, name="NVIDIA H200", vram_total_mb=100, compute_capability="9.0"),
        DeviceInfo(index=1, name="NVIDIA Old", vram_total_mb=100, compute_capability="7.5"),
    )
    assert cards.health == (
        DeviceHealth(index=0, vram_used_mb=30, vram_free_mb=70, utilization_pct=42, temp_c=55),
        DeviceHealth(index=1, vram_used_mb=30, vram_free_mb=70),
    )
    assert (cards.driver_version, cards.cuda_version) == ("580.159.03", "12.8")
    assert driver.open == 0
    at = hardware(cards)
    assert (at.gpus, at.on_cpu, at.devices) == ((0, 1), False, cards.devices)
    assert at.health(0, ActivationStatus(), []).devices == cards.health


@pytest.mark.parametrize(("number", "text"), [(12080, "12.8"), (13000, "13.0"), (11020, "11.2")])
def test_cuda_version(number: int, text: str) -> None:
    assert cuda_version(number) == text


def test_n031_discovery_no_gpu() -> None:
    none = hardware(Cards(), report_cpu=False).discovery(["candle"], 16384).to_wire()
    assert (none["devices"], none["cuda_version"], none["driver_version"]) == ([], None, None)
    assert "cuda_unavailable_reason" not in none
    assert (none["harnesses"], none["max_prompt_tokens"]) == (["candle"], 16384)
    one = hardware(Cards()).discovery(["candle"], 16384).to_wire()
    [device] = one["devices"]
    assert (device["index"], device["compute_capability"]) == (0, "cpu")
    assert device["name"].startswith("CPU: ")
    assert device["vram_total_mb"] == one["host"]["memory_total_mb"] > 0
    assert "cuda_unavailable_reason" not in one
    [health] = hardware(Cards()).health(0, ActivationStatus(), []).devices
    assert health == DeviceHealth(index=0, vram_used_mb=400, vram_free_mb=600, utilization_pct=25)


@pytest.mark.parametrize("later", [False, True])
def test_n032_mismatch_node(tmp_path: Path, later: bool) -> None:
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").write_text(NVRM)
    (tmp_path / "proc/self").mkdir()
    (tmp_path / "proc/self/maps").write_text("7f0 r-xp /usr/lib/libnvidia-ml.so.580.167\n")
    at = hardware(read_cards(Driver(18, later=later), tmp_path))
    said = at.discovery([], 1).to_wire()
    assert said["devices"] == []
    for part in ("580.159.03", "580.167", "driver/library mismatch", "reboot the host"):
        assert part in said["cuda_unavailable_reason"]
    assert at.unavailable == said["cuda_unavailable_reason"]


@pytest.mark.parametrize(
    ("kernel", "userspace", "parts"),
    [
        (NVRM, "580.167", ("580.159.03", "580.167")),
        ("", None, ("is unknown", "module unknown")),
        ("GCC version: gcc 12.2.0\n", None, ("is unknown", "module unknown")),
    ],
    ids=["both", "empty", "GCC line only"],
)
def test_n033_mismatch_reason(kernel: str, userspace: str | None, parts: tuple[str, ...]) -> None:
    text = mismatch_reason(kernel, userspace)
    for part in (*parts, "driver/library mismatch", "reboot the host"):
        assert part in text


def test_n034_no_library_is_no_cards() -> None:
    cards = read_cards(Driver(12))
    assert cards == Cards()
    assert hardware(cards, report_cpu=False).devices == ()


@pytest.mark.parametrize(
    ("devices", "known"),
    [
        ([], True),
        ([("0x8086", "0x030000"), ("0x10de", "0x0c0330")], True),
        ([("0x8086", "0x030000"), ("0x10de", "0x030200")], False),
    ],
    ids=["no device", "no card", "a card"],
)
def test_a_driver_that_is_not_loaded_is_missed_only_where_it_has_a_card(
    tmp_path: Path, devices: list[tuple[str, str]], known: bool
) -> None:
    for n, (vendor, kind) in enumerate(devices):
        folder = tmp_path / f"sys/bus/pci/devices/0000:0{n}:00.0"
        folder.mkdir(parents=True)
        (folder / "vendor").write_text(f"{vendor}\n")
        (folder / "class").write_text(f"{kind}\n")
    if known:
        assert read_cards(Driver(9), tmp_path) == Cards()
    else:
        with pytest.raises(NvmlFailed):
            read_cards(Driver(9), tmp_path)


@pytest.mark.parametrize("later", [False, True])
def test_n034_other_failures(caplog: pytest.LogCaptureFixture, later: bool) -> None:
    driver = Driver(999, later=later)
    with pytest.raises(NvmlFailed):
        read_cards(driver)
    assert driver.open == 0
    sampler = Sampler(read_cards=lambda: read_cards(driver))
    for _ in range(3):
        sampler.take()
    at = Hardware(MACHINE, sampler.latest)
    assert (at.devices, at.unavailable) == ((), None)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_failed_sample_keeps_the_last_and_each_episode_warns_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    answers = [Cards(cuda_version="1"), None, None, Cards(cuda_version="2"), None]

    def read() -> Cards:
        answer = answers.pop(0)
        if answer is None:
            raise NvmlFailed("lost")
        return answer

    sampler = Sampler(read_cards=read)
    seen = []
    for _ in range(5):
        sampler.take()
        seen.append(sampler.latest.cards.cuda_version)
    assert seen == ["1", "1", "1", "2", "2"]
    assert len(caplog.records) == 2


def test_a_host_that_cannot_be_read_keeps_its_last_sample(
    caplog: pytest.LogCaptureFixture,
) -> None:
    left = [HOST, HOST]

    def sample(last: HostSample | None) -> HostSample:
        if not left:
            raise OSError("/proc is gone")
        return left.pop()

    cards = [Cards(cuda_version=str(n)) for n in range(3)]
    sampler = Sampler(read_cards=cards.pop, sample_host=sample, interval_s=0.001)
    sampler.start()
    wait_until(lambda: not cards)
    sampler.stop()
    assert sampler.latest.host == HOST
    assert [record.getMessage() for record in caplog.records][:1] == [
        "cannot read the host: /proc is gone"
    ]


class Hanging:
    """A driver that answers once and then no more, until it is let go."""

    def __init__(self) -> None:
        self.hangs, self.go, self.asked = False, threading.Event(), threading.Event()

    def __call__(self) -> Cards:
        if self.hangs:
            self.asked.set()
            self.go.wait(10)
        self.hangs = True
        return Cards(cuda_version="1")


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_n034_a_driver_that_hangs_holds_up_nobody(
    caplog: pytest.LogCaptureFixture, anyio_backend: str
) -> None:
    driver, now = Hanging(), SimpleNamespace(s=0.0)
    sampler = Sampler(read_cards=driver, interval_s=0.01, clock=lambda: now.s)
    sampler.start()
    assert (await sampler.first()).cards.cuda_version == "1"
    driver.asked.wait(10)
    now.s = 60.0
    for _ in range(3):
        assert sampler.latest.cards.cuda_version == "1"
    assert [record.getMessage() for record in caplog.records] == [
        "the driver has not answered for 60 s"
    ]
    sampler.stop()
    driver.go.set()
    wait_until(lambda: not any(t.name == "helexa-sampler" for t in threading.enumerate()))


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_the_first_sample_is_waited_for_only_so_long(anyio_backend: str) -> None:
    driver = Hanging()
    driver.hangs = True
    sampler = Sampler(read_cards=driver)
    sampler.start()
    sample = await sampler.first(timeout_s=0.01)
    assert not sample.cards.known
    assert Hardware(MACHINE, sample).devices == ()
    assert sample.host.health.memory_total_mb > 0
    sampler.stop()
    driver.go.set()


def test_a_mismatch_is_one_error_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    sampler = Sampler(read_cards=lambda: Cards(unavailable="mismatch"))
    sampler.take()
    sampler.take()
    assert [(r.levelno, r.getMessage()) for r in caplog.records] == [(logging.ERROR, "mismatch")]


def test_the_machine_from_its_files(tmp_path: Path) -> None:
    def write(name: str, text: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    write("etc/os-release", 'NAME=x\nPRETTY_NAME="Debian GNU/Linux 12"\n')
    write("proc/sys/kernel/osrelease", "6.1.0\n")
    write("proc/cpuinfo", "processor : 0\nmodel name\t: AMD EPYC\n")
    write("proc/meminfo", "MemTotal: 8192 kB\nMemFree: 1 kB\nMemAvailable: 4096 kB\n")
    write("proc/stat", "cpu  10 0 10 70 10 0 0 0 0 0\ncpu0 1 2 3\n")
    machine = read_machine(tmp_path)
    assert (machine.os, machine.kernel) == ("Debian GNU/Linux 12", "6.1.0")
    assert (machine.facts.cpu_name, machine.facts.memory_total_mb) == ("AMD EPYC", 8)
    assert machine.hostname
    first = sample_host(None, tmp_path)
    write("proc/stat", "cpu  40 0 30 110 20 0 0 0 0 0\n")
    second = sample_host(first, tmp_path)
    assert (first.busy_pct, second.busy_pct) == (0, 50)
    assert second.health.memory_available_mb == 4


def test_what_files_do_not_tell() -> None:
    assert (os_name(""), cpu_times(""), cpu_times("cpu0 1 2")) == (
        "",
        CpuTimes(0, 0),
        CpuTimes(0, 0),
    )
    assert cpu_name("")
    assert CpuTimes(5, 10).busy_pct_since(CpuTimes(5, 10)) == 0


def test_n036_readers() -> None:
    old = HealthResponse.read({"uptime_secs": 3, "devices": [], "novelty": 1})
    assert (old.models, old.activation) == ((), ActivationStatus(state="ready"))
    three = ModelLoad.read({"id": "m", "in_flight": 1, "queue_depth": 2})
    rest = three.to_wire().keys() - {"id", "in_flight", "queue_depth"}
    assert {three.to_wire()[name] for name in rest} == {0}
    build = BuildInfo.read({"package_version": "1"})
    assert build.git_sha == "unknown"
    bodies: list[Any] = [
        old,
        three,
        build,
        hardware(Cards()).discovery(["candle"], 5),
        hardware(Cards(unavailable="why")).discovery([], 5),
        hardware(Cards()).health(7.9, ActivationStatus(pending=("a",)), [three]),
    ]
    for body in bodies:
        assert type(body).read(json.loads(json.dumps(body.to_wire()))) == body


def test_n029_health_fresh() -> None:
    said = hardware(Cards()).health(0.9, ActivationStatus(), []).to_wire()
    assert (said["uptime_secs"], said["models"]) == (0, [])


def test_the_fullest_card_of_a_model_counts() -> None:
    health = tuple(
        DeviceHealth(index=index, vram_used_mb=0, vram_free_mb=free_mb)
        for index, free_mb in ((0, 900), (1, 400), (3, 50))
    )
    at = hardware(Cards(health=health))
    assert [at.free_mb(devices) for devices in ((0,), (0, 1), (0, 2), ())] == [900, 400, 0, 0]
    assert hardware(Cards()).free_mb((0,)) == 0
