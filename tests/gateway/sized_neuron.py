"""A neuron whose device has the size that it is told: `python sized_neuron.py MIB -c CONFIG`.

Neurons on one machine share its memory with each other and with everything else that runs there:
what one of them loads could not be told from what happens beside it. So the reading of the device,
and nothing else, is made up: what every loaded model says that it holds is taken, the rest is free.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import anyio

from helexa.daemon.logs import configure_logging
from helexa.neuron.app import Neuron
from helexa.neuron.config_layers import load_config
from helexa.neuron.discovery import Sampler
from helexa.neuron.machine import HostSample, sample_host
from helexa.neuron.nvml import Cards
from helexa.neuron.run import run
from helexa.neuron.runtime import read_runtime

READ_EVERY_S = 0.05


class Sized:
    """Readings of a device of ``size_mb``."""

    def __init__(self, size_mb: int) -> None:
        self._size_mb = size_mb
        self.neuron: Neuron | None = None

    def __call__(self, last: HostSample | None) -> HostSample:
        slots = self.neuron.slots if self.neuron is not None else []
        free_mb = max(0, self._size_mb - sum(slot.vram_used_mb for slot in slots))
        real = sample_host(last)
        memory = {"memory_total_mb": self._size_mb, "memory_available_mb": free_mb}
        return replace(real, health=replace(real.health, **memory))


def main(size_mb: str, flag: str, path: str) -> None:
    assert flag == "-c"
    configure_logging(20, "text", sys.stderr)
    config = load_config(Path(path), environ=os.environ, options={}).config
    sized = Sized(int(size_mb))
    sampler = Sampler(read_cards=Cards, sample_host=sized, interval_s=READ_EVERY_S)
    sized.neuron = Neuron(config, read_runtime(os.environ), os.environ, sampler=sampler)
    anyio.run(run, sized.neuron)


if __name__ == "__main__":
    main(*sys.argv[1:])
