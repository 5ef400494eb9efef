"""The host itself: its name, processor and memory, and how busy they are."""

from __future__ import annotations

import os
import platform
import socket
from dataclasses import dataclass
from pathlib import Path

from helexa.engine.hardware import host_memory
from helexa.neuron.nvml import MIB, read_text
from helexa.protocol.control import DeviceHealth, DeviceInfo, HostHealth, HostInfo


@dataclass(frozen=True, slots=True)
class Machine:
    """What a host is; it does not change while the daemon runs."""

    hostname: str
    os: str
    kernel: str
    facts: HostInfo

    def as_device(self) -> DeviceInfo:
        """The processor, as the device of a host without cards."""
        return DeviceInfo(
            index=0,
            name=f"CPU: {self.facts.cpu_name}",
            vram_total_mb=self.facts.memory_total_mb,
            compute_capability="cpu",
        )


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """Processor time since the host was started, in ticks."""

    busy: int
    total: int

    def busy_pct_since(self, earlier: CpuTimes) -> int:
        """How busy the processors were in between, in percent of all of them."""
        passed = self.total - earlier.total
        if passed <= 0:
            return 0
        return min(100, max(0, round(100 * (self.busy - earlier.busy) / passed)))


@dataclass(frozen=True, slots=True)
class HostSample:
    """How a host is doing at one moment."""

    health: HostHealth
    times: CpuTimes
    busy_pct: int = 0

    def as_device(self) -> DeviceHealth:
        """The load of the processor, as the device of a host without cards."""
        health = self.health
        return DeviceHealth(
            index=0,
            vram_used_mb=health.memory_total_mb - health.memory_available_mb,
            vram_free_mb=health.memory_available_mb,
            utilization_pct=self.busy_pct,
        )


def read_machine(root: Path = Path("/")) -> Machine:
    """What this host is; ``root`` is where ``proc``, ``sys`` and ``etc`` are."""
    return Machine(
        hostname=socket.gethostname() or "unknown",
        os=os_name(read_text(root / "etc/os-release")) or platform.system() or "unknown",
        kernel=read_text(root / "proc/sys/kernel/osrelease").strip()
        or platform.release()
        or "unknown",
        facts=HostInfo(
            cpu_name=cpu_name(read_text(root / "proc/cpuinfo")),
            cpu_count=os.cpu_count() or 0,
            memory_total_mb=host_memory(root).total_bytes // MIB,
        ),
    )


def sample_host(last: HostSample | None = None, root: Path = Path("/")) -> HostSample:
    """How this host is doing; how busy it is counts from ``last``."""
    memory = host_memory(root)
    health = HostHealth(
        memory_total_mb=memory.total_bytes // MIB,
        memory_available_mb=memory.available_bytes // MIB,
        load_1m=load_average(),
    )
    times = cpu_times(read_text(root / "proc/stat"))
    return HostSample(health, times, times.busy_pct_since(last.times) if last else 0)


def load_average() -> float:
    try:
        return round(os.getloadavg()[0], 2)
    except OSError:
        return 0.0


def os_name(release: str) -> str:
    """The name in the text of `/etc/os-release`, empty if there is none."""
    for line in release.splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip().strip("\"'")
    return ""


def cpu_name(cpuinfo: str) -> str:
    """The processor's name from `/proc/cpuinfo`, else what the platform calls it."""
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name" and value.strip():
            return value.strip()
    return platform.processor() or platform.machine() or "unknown"


def cpu_times(stat: str) -> CpuTimes:
    """The first line of `/proc/stat`; waiting for a disk counts as idle.

    Source: proc(5), `user nice system idle iowait irq softirq steal …`
    """
    words = stat.partition("\n")[0].split()
    if len(words) < 6 or words[0] != "cpu":
        return CpuTimes(0, 0)
    ticks = [int(word) for word in words[1:9]]
    return CpuTimes(sum(ticks) - ticks[3] - ticks[4], sum(ticks))
