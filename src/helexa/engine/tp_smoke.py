"""Whether ranks can talk here: some processes start, sum one number over all of them, and end.

python -m helexa.engine.tp_smoke RANK SIZE FILE DEVICE   # one rank; DEVICE is a card or cpu
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from helexa.engine.hardware import gpus
from helexa.engine.process.children import environment
from helexa.errors import DeviceError

TIMEOUT_S = 100.0
POLL_S = 0.02


def smoke(devices: Sequence[int], timeout_s: float = TIMEOUT_S) -> None:
    """One rank for each device: on these cards if there are cards, else on the CPU.

    Raises DeviceError if a rank fails, or is not done after ``timeout_s``.
    """
    places = [f"cuda:{device}" for device in devices] if gpus() else ["cpu"] * len(devices)
    with tempfile.TemporaryDirectory(prefix="helexa-") as folder:
        meeting = str(Path(folder) / "ranks")
        command = [sys.executable, "-P", "-m", __spec__.name]
        ranks = [
            subprocess.Popen(
                [*command, str(rank), str(len(places)), meeting, place],
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                env=environment(),
            )
            for rank, place in enumerate(places)
        ]
        try:
            _wait(ranks, timeout_s)
        finally:
            for process in ranks:
                process.kill()
                process.communicate()


def _wait(ranks: Sequence[subprocess.Popen[str]], timeout_s: float) -> None:
    """Wait for all ranks; the first that fails is the news, the others would wait for it."""
    deadline_s = time.monotonic() + timeout_s
    while any(process.poll() is None for process in ranks):
        if time.monotonic() > deadline_s:
            raise DeviceError(f"{len(ranks)} ranks have not met within {timeout_s:g} s")
        if any(process.returncode for process in ranks):
            break
        time.sleep(POLL_S)
    for rank, process in enumerate(ranks):
        if process.returncode:
            said = process.communicate()[1].strip().splitlines()
            status = f"status {process.returncode}"
            raise DeviceError(f"rank {rank} failed: {said[-1] if said else status}")


def run_rank(rank: int, size: int, meeting: str, place: str) -> None:
    """Meet the others, and sum the ranks' numbers, which count from 1."""
    import torch
    from torch import distributed

    device = torch.device(place)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=f"file://{meeting}",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=TIMEOUT_S),
    )
    total = torch.tensor([rank + 1], device=device)
    distributed.all_reduce(total)
    distributed.destroy_process_group()
    if total.item() != size * (size + 1) // 2:
        raise DeviceError(f"the sum over {size} ranks is {total.item()}")


if __name__ == "__main__":
    run_rank(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
