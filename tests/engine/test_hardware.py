"""What the machine says it has, read from files and text made for the test."""

from __future__ import annotations

from pathlib import Path

import pytest

from helexa.engine.hardware import Gpu, HostMemory, gpus, host_memory

MIB = 2**20
MEMINFO = "MemTotal: 8192 kB\nMemFree: 1024 kB\nMemAvailable: 4096 kB\nHugePages_Total: 0\n"


def write(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_memory_is_what_the_kernel_says(tmp_path: Path) -> None:
    write(tmp_path, proc__meminfo=MEMINFO)
    assert host_memory(tmp_path) == HostMemory(8 * MIB, 4 * MIB)


@pytest.mark.parametrize(
    ("limit", "used", "stat", "means"),
    [
        ("max", "0", "", HostMemory(8 * MIB, 4 * MIB)),
        (f"{2 * MIB}", f"{MIB}", "", HostMemory(2 * MIB, MIB)),
        (f"{2 * MIB}", f"{2 * MIB}", f"anon 0\ninactive_file {MIB}\n", HostMemory(2 * MIB, MIB)),
        (f"{7 * MIB}", "0", "", HostMemory(7 * MIB, 4 * MIB)),
        (f"{2 * MIB}", f"{3 * MIB}", "", HostMemory(2 * MIB, 0)),
        (f"{64 * MIB}", "0", "", HostMemory(8 * MIB, 4 * MIB)),
    ],
    ids=["none", "limit", "file cache", "host is tighter", "over", "above the host"],
)
def test_a_container_is_as_small_as_its_limit(
    tmp_path: Path, limit: str, used: str, stat: str, means: HostMemory
) -> None:
    group = tmp_path / "sys/fs/cgroup"
    write(tmp_path, proc__meminfo=MEMINFO)
    group.mkdir(parents=True)
    (group / "memory.max").write_text(f"{limit}\n")
    (group / "memory.current").write_text(f"{used}\n")
    (group / "memory.stat").write_text(stat)
    assert host_memory(tmp_path) == means


def test_without_proc_half_of_what_is_installed_is_free(tmp_path: Path) -> None:
    memory = host_memory(tmp_path)
    assert memory.available_bytes == memory.total_bytes // 2 > 0


def test_cards_are_read_and_odd_lines_left_out() -> None:
    answer = "0, NVIDIA H200, 143771, 143000\n1, NVIDIA GB10, [N/A], [N/A]\n\n"
    assert gpus(lambda: answer) == (Gpu(0, "NVIDIA H200", 143771 * MIB, 143000 * MIB),)


def test_no_driver_is_no_card() -> None:
    assert gpus(lambda: "") == ()
