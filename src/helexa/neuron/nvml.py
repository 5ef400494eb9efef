"""The NVIDIA cards of this host, as the driver's library tells them."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from helexa.protocol.control import DeviceHealth, DeviceInfo

T = TypeVar("T")

MIB = 2**20
NVIDIA, DISPLAY = "0x10de", "0x03"
"""A maker and the class of a device, as the PCI bus writes them."""
DRIVER_NOT_LOADED = 9
LIBRARY_NOT_FOUND = 12
VERSION_MISMATCH = 18
VERSION = re.compile(r"\d+(?:\.\d+)+")
LIBRARY = re.compile(r"libnvidia-ml\.so\.(\d+(?:\.\d+)+)")


@dataclass(frozen=True, slots=True)
class Cards:
    """What the driver says; ``unavailable`` is why it cannot be used, if that is for the operator.

    ``cuda_version`` is the newest that the driver supports. ``known`` is false while the driver
    has not answered: there may be cards, or none.
    """

    devices: tuple[DeviceInfo, ...] = ()
    health: tuple[DeviceHealth, ...] = ()
    driver_version: str | None = None
    cuda_version: str | None = None
    unavailable: str | None = None
    known: bool = True

    @property
    def usable_cuda(self) -> str | None:
        """The driver's CUDA version where there is a card that can be used."""
        return self.cuda_version if self.devices else None


class NvmlFailed(Exception):
    """The library is there, but does not answer."""


def read_cards(nvml: Any = None, root: Path = Path("/")) -> Cards:
    """Ask the driver; ``nvml`` is its library's module, ``root`` where ``proc`` is.

    No library is no cards, nor is a driver that is not loaded where there is no card for it.
    Raises NvmlFailed where it does not answer.
    """
    if nvml is None:
        nvml = importlib.import_module("pynvml")  # only those who sample load it
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        if error.value == LIBRARY_NOT_FOUND:
            return Cards()
        if error.value == DRIVER_NOT_LOADED and not has_card(root):
            return Cards()
        if error.value == VERSION_MISMATCH:
            return Cards(unavailable=mismatch_of_host(root))
        raise NvmlFailed(str(error)) from error
    try:
        return ask(nvml)
    except nvml.NVMLError as error:
        if error.value == VERSION_MISMATCH:
            return Cards(unavailable=mismatch_of_host(root))
        raise NvmlFailed(str(error)) from error
    finally:
        with suppress(nvml.NVMLError):
            nvml.nvmlShutdown()


def usable_cuda(read: Callable[[], Cards] = read_cards) -> str | None:
    """As the cards say that this reads, None where the driver does not answer."""
    try:
        return read().usable_cuda
    except NvmlFailed:
        return None


def ask(nvml: Any) -> Cards:
    """Everything about every card."""
    handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
    read = [read_card(nvml, index, handle) for index, handle in enumerate(handles)]
    return Cards(
        devices=tuple(device for device, _ in read),
        health=tuple(health for _, health in read),
        driver_version=text(nvml.nvmlSystemGetDriverVersion()),
        cuda_version=cuda_version(nvml.nvmlSystemGetCudaDriverVersion()),
    )


def read_card(nvml: Any, index: int, handle: Any) -> tuple[DeviceInfo, DeviceHealth]:
    """One card; what it cannot tell of its use or temperature is 0."""

    def or_zero(read: Callable[[], int]) -> int:
        try:
            return int(read())
        except nvml.NVMLError:
            return 0

    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    device = DeviceInfo(
        index=index,
        name=text(nvml.nvmlDeviceGetName(handle)),
        vram_total_mb=memory.total // MIB,
        compute_capability=f"{major}.{minor}",
    )
    health = DeviceHealth(
        index=index,
        vram_used_mb=memory.used // MIB,
        vram_free_mb=memory.free // MIB,
        utilization_pct=or_zero(lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu),
        temp_c=or_zero(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
    )
    return device, health


def has_card(root: Path) -> bool:
    """Whether a card of the driver's maker is plugged in, whoever drives it."""
    return any(
        read_text(device / "vendor").strip() == NVIDIA
        and read_text(device / "class").startswith(DISPLAY)
        for device in root.glob("sys/bus/pci/devices/*")
    )


def text(value: str | bytes) -> str:
    """A name, which older versions of the module give as bytes."""
    return value.decode() if isinstance(value, bytes) else value


def cuda_version(number: int) -> str:
    """`12.8` for 12080."""
    return f"{number // 1000}.{number % 1000 // 10}"


def mismatch_of_host(root: Path) -> str:
    """Why the driver cannot be used, with the versions that do not fit each other."""
    kernel = read_text(root / "proc/driver/nvidia/version")
    maps = read_text(root / "proc/self/maps")  # the library is loaded, under its full name
    found = LIBRARY.search(maps)
    return mismatch_reason(kernel, found[1] if found else None)


def mismatch_reason(kernel_text: str, userspace: str | None) -> str:
    """The text of a driver/library mismatch; ``kernel_text`` is `/proc/driver/nvidia/version`."""
    return (
        f"NVIDIA driver/library mismatch: the library is {userspace or 'unknown'}, the loaded "
        f"kernel module {kernel_version(kernel_text)}; reboot the host"
    )


def kernel_version(text: str) -> str:
    """The version of the kernel module, `unknown` if the text does not tell."""
    for line in text.splitlines():
        if line.startswith("NVRM version:"):
            versions = (word for word in line.split() if VERSION.fullmatch(word))
            return next(versions, "unknown")
    return "unknown"


def read_text(path: Path) -> str:
    """A file's text, empty if it cannot be read."""
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
