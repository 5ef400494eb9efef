"""A neuron whose device has the size that it is told: `python sized_neuron.py MIB[:MIB] -c CONFIG`.

With a second number, a load fails where less than that is free, as on a card; else everything fits.

Neurons on one machine share its memory with each other and with everything else that runs there:
what one of them loads could not be told from what happens beside it. So the reading of the device,
and nothing else, is made up: what every loaded model says that it holds is taken, the rest is free.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio

from helexa.daemon.logs import configure_logging
from helexa.errors import CapacityError
from helexa.neuron.app import Neuron
from helexa.neuron.config_layers import load_config
from helexa.neuron.discovery import Sampler
from helexa.neuron.machine import HostSample, sample_host
from helexa.neuron.nvml import Cards
from helexa.neuron.run import run
from helexa.neuron.runtime import read_runtime
from helexa.neuron.slots import Loader, Slot

READ_EVERY_S = 0.05


class Sized:
    """Readings of a device of ``size_mb``."""

    def __init__(self, size_mb: int) -> None:
        self._size_mb = size_mb
        self.neuron: Neuron | None = None

    @property
    def free_mb(self) -> int:
        slots = self.neuron.slots if self.neuron is not None else []
        return max(0, self._size_mb - sum(slot.vram_used_mb for slot in slots))

    def __call__(self, last: HostSample | None) -> HostSample:
        real = sample_host(last)
        memory = {"memory_total_mb": self._size_mb, "memory_available_mb": self.free_mb}
        return replace(real, health=replace(real.health, **memory))


class Tight:
    """A loader that loads nothing where less than ``need_mb`` is free."""

    def __init__(self, loader: Loader, sized: Sized, need_mb: int) -> None:
        self._loader, self._sized, self._need_mb = loader, sized, need_mb

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def load(self, *args: Any, **more: Any) -> Slot:
        free_mb = self._sized.free_mb
        if free_mb < self._need_mb:
            raise CapacityError(
                f"the device refused {self._need_mb} MiB",
                required_mb=self._need_mb,
                budget_mb=free_mb,
            )
        return self._loader.load(*args, **more)


def main(size_mb: str, flag: str, path: str) -> None:
    assert flag == "-c"
    configure_logging(20, "text", sys.stderr)
    config = load_config(Path(path), environ=os.environ, options={}).config
    total_mb, _, need_mb = size_mb.partition(":")
    sized = Sized(int(total_mb))
    sampler = Sampler(read_cards=Cards, sample_host=sized, interval_s=READ_EVERY_S)
    sized.neuron = Neuron(config, read_runtime(os.environ), os.environ, sampler=sampler)
    if need_mb:
        registry: Any = sized.neuron.registry
        registry._loader = Tight(registry._loader, sized, int(need_mb))
    anyio.run(run, sized.neuron)


if __name__ == "__main__":
    main(*sys.argv[1:])
