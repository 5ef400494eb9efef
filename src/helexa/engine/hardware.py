"""What this machine has: host memory and GPUs, without torch and without touching a device."""

from __future__ import annotations

import csv
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

QUERY = ("nvidia-smi", "--query-gpu=index,name,memory.total,memory.free")
QUERY_TIMEOUT_S = 10
CGROUPS = (
    ("sys/fs/cgroup", "memory.max", "memory.current"),
    ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
)


@dataclass(frozen=True, slots=True)
class HostMemory:
    """Main memory in bytes; a container's limit counts as the machine's size."""

    total_bytes: int
    available_bytes: int


@dataclass(frozen=True, slots=True)
class Gpu:
    """One accelerator and its memory in bytes."""

    index: int
    name: str
    total_bytes: int
    free_bytes: int


def host_memory(root: Path = Path("/")) -> HostMemory:
    """Total and available host memory; ``root`` is where ``proc`` and ``sys`` are.

    Where there is no ``/proc`` (macOS), half of what is installed counts as available.
    """
    total, available = _meminfo(root / "proc/meminfo") or _installed()
    for folder, limit_file, used_file in CGROUPS:
        limit = _number(root / folder / limit_file)
        if limit is not None and limit < total:
            used = (_number(root / folder / used_file) or 0) - _reclaimable(root / folder)
            total, available = limit, max(0, min(available, limit - used))
    return HostMemory(total, available)


def _meminfo(path: Path) -> tuple[int, int] | None:
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    kib = {name: rest.split()[0] for name, _, rest in (line.partition(":") for line in lines)}
    total = int(kib["MemTotal"]) * 1024
    return total, int(kib.get("MemAvailable", kib["MemFree"])) * 1024


def _installed() -> tuple[int, int]:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return total, total // 2


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):  # not there, or "max"
        return None


def _reclaimable(group: Path) -> int:
    """Bytes of file cache that a control group counts as used but gives back when asked."""
    try:
        lines = (group / "memory.stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)


def _nvidia_smi() -> str:
    """What ``nvidia-smi`` prints; empty where there is no driver."""
    try:
        return subprocess.run(
            [*QUERY, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=QUERY_TIMEOUT_S,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def gpus(query: Callable[[], str] = _nvidia_smi) -> tuple[Gpu, ...]:
    """The NVIDIA GPUs of this machine, none where there is no driver; ``query`` asks it."""
    found = []
    for row in csv.reader(query().splitlines(), skipinitialspace=True):
        try:
            index, name, total_mib, free_mib = row
            gpu = Gpu(int(index), name, int(total_mib) * 2**20, int(free_mib) * 2**20)
        except ValueError:  # "[N/A]": unified memory, or a device that is lost
            continue
        found.append(gpu)
    return tuple(found)
