"""What this host has, sampled by a thread of its own, so that nobody ever waits for a driver."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import anyio.to_thread

from helexa.neuron.machine import HostSample, Machine, sample_host
from helexa.neuron.nvml import Cards, read_cards
from helexa.protocol.control import (
    ActivationStatus,
    DeviceHealth,
    DeviceInfo,
    DiscoveryResponse,
    HealthResponse,
    ModelLoad,
)

logger = logging.getLogger(__name__)

INTERVAL_S = 5.0
FIRST_WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class Sample:
    """The host at one moment."""

    cards: Cards
    host: HostSample


@dataclass(frozen=True, slots=True)
class Hardware:
    """What a host is, how it is doing, and whether its processor counts as a device."""

    machine: Machine
    sample: Sample
    report_cpu: bool = True

    @property
    def gpus(self) -> tuple[int, ...]:
        """The indices of the cards."""
        return tuple(device.index for device in self.sample.cards.devices)

    @property
    def unavailable(self) -> str | None:
        """Why the cards cannot be used, if they should be."""
        return self.sample.cards.unavailable

    @property
    def devices(self) -> tuple[DeviceInfo, ...]:
        cards = self.sample.cards
        return (self.machine.as_device(),) if self.on_cpu else cards.devices

    @property
    def on_cpu(self) -> bool:
        """Whether the processor is the device: there is surely no card, not even a broken one."""
        cards = self.sample.cards
        certain = cards.known and cards.unavailable is None
        return self.report_cpu and certain and not cards.devices

    @property
    def device_health(self) -> tuple[DeviceHealth, ...]:
        """How each device is doing."""
        sample = self.sample
        return (sample.host.as_device(),) if self.on_cpu else sample.cards.health

    def free_mb(self, devices: Sequence[int]) -> int:
        """MiB that are free on the fullest of these cards; 0 if that is not known."""
        free = {card.index: card.vram_free_mb for card in self.sample.cards.health}
        return min((free.get(index, 0) for index in devices), default=0)

    def discovery(self, harnesses: Sequence[str], max_prompt_tokens: int) -> DiscoveryResponse:
        """The body of `/discovery`."""
        cards, machine = self.sample.cards, self.machine
        return DiscoveryResponse(
            hostname=machine.hostname,
            os=machine.os,
            kernel=machine.kernel,
            cuda_version=cards.cuda_version,
            driver_version=cards.driver_version,
            devices=self.devices,
            harnesses=tuple(harnesses),
            cuda_unavailable_reason=cards.unavailable,
            max_prompt_tokens=max_prompt_tokens,
            host=machine.facts,
        )

    def health(
        self, uptime_s: float, activation: ActivationStatus, models: Sequence[ModelLoad]
    ) -> HealthResponse:
        """The body of `/health`."""
        return HealthResponse(
            uptime_secs=int(uptime_s),
            devices=self.device_health,
            activation=activation,
            models=tuple(models),
            host=self.sample.host.health,
        )


class Sampler:
    """Keeps a recent sample of the host. `latest` never waits.

    ``read_cards`` and ``sample_host`` look at the machine; they run on the sampler's thread. A
    reading that fails, or takes longer than ``interval_s``, leaves the last one in place and is
    warned of once, until the next that succeeds.
    """

    def __init__(
        self,
        *,
        read_cards: Callable[[], Cards] = read_cards,
        sample_host: Callable[[HostSample | None], HostSample] = sample_host,
        interval_s: float = INTERVAL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read_cards = read_cards
        self._sample_host = sample_host
        self._interval_s = interval_s
        self._clock = clock
        self._latest = Sample(Cards(known=False), sample_host(None))
        self._asked_s: float | None = None  # since when the driver owes an answer
        self._warned = False
        self._first = threading.Event()
        self._stopped = threading.Event()

    @property
    def latest(self) -> Sample:
        """The last sample that succeeded; no cards before the first."""
        self._warn_if_late()
        return self._latest

    def start(self) -> None:
        """Begin to sample."""
        threading.Thread(target=self._run, name="helexa-sampler", daemon=True).start()

    def stop(self) -> None:
        """Take no further sample; one that hangs is left to itself."""
        self._stopped.set()
        self._first.set()

    def wait_no_longer(self) -> None:
        """Let whoever waits for the first sample go on without it."""
        self._first.set()

    async def first(self, timeout_s: float = FIRST_WAIT_S) -> Sample:
        """The first sample, or none of the cards if the driver takes longer, or nobody waits."""
        await anyio.to_thread.run_sync(self._first.wait, timeout_s, abandon_on_cancel=True)
        return self.latest

    def _run(self) -> None:
        while not self._stopped.is_set():
            self.take()
            self._first.set()
            self._stopped.wait(self._interval_s)

    def take(self) -> None:
        """Take one sample now, in this thread."""
        last, whole = self._latest, True
        try:
            host = self._sample_host(last.host)
        except Exception as error:  # as below: a sample of the past is better than none
            host, whole = last.host, False
            self._warn("cannot read the host: %s", str(error) or type(error).__name__)
        self._latest = Sample(last.cards, host)
        self._asked_s = self._clock()
        try:
            cards = self._read_cards()
        except Exception as error:  # whatever a driver does, the host still serves
            self._warn("cannot read the cards: %s", str(error) or type(error).__name__)
        else:
            if cards.unavailable is not None and self._latest.cards.unavailable is None:
                logger.error("%s", cards.unavailable)
            self._latest = Sample(cards, host)
            self._warned = self._warned and not whole
        finally:
            self._asked_s = None

    def _warn_if_late(self) -> None:
        asked_s = self._asked_s
        if asked_s is not None and self._clock() - asked_s > self._interval_s:
            self._warn("the driver has not answered for %.0f s", self._clock() - asked_s)

    def _warn(self, text: str, detail: object) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(text, detail)
