"""What is free on a node's devices, as far as it can be known: pure, in MiB.

Readings lag behind loads and unloads, so what the gateway itself did there is added to them for a
while.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from helexa.gateway.catalogue import Catalogue, Profile, usable_devices
from helexa.gateway.fleet import Adjustment, Entry, Node

LAG_S = 15.0
"""How long a reading may be out of date."""


def need_mb(profile: Profile) -> int:
    """What a model needs on each of its devices; 0 where nobody says."""
    return ceil_div(profile.vram_mb or 0, max(1, profile.min_devices))


def free_mb(node: Node, index: int, now: float) -> int:
    """What is free on one device; 0 where nothing was read."""
    health = node.device_health.get(index)
    free = health.vram_free_mb if health is not None else 0
    for adjustment in node.adjustments.get(index, ()):
        if now < adjustment.until:
            bound = max if adjustment.floor else min
            free = bound(free, adjustment.free_mb)
    return free


def free_on_usable(profile: Profile, node: Node, now: float) -> dict[int, int]:
    """What is free on each device that is large enough, in the order of discovery."""
    usable = usable_devices(profile, node.devices)
    return {device.index: free_mb(node, device.index, now) for device in usable}


def estimate_mb(catalogue: Catalogue, model: str, entry: Entry) -> int | None:
    """What a resident holds on all its devices together; None if nobody knows."""
    if entry.vram_estimate_mb is not None:
        return entry.vram_estimate_mb
    profile = catalogue.profiles.get(model)
    return profile.vram_mb if profile is not None else None


def home(node: Node, entry: Entry) -> tuple[int, ...]:
    """The devices that a resident is on; without word of them, all of the node's."""
    return entry.devices or tuple(device.index for device in node.devices)


def share_mb(catalogue: Catalogue, node: Node, model: str, entry: Entry) -> int:
    """What a resident holds on each of its devices; 0 if nobody knows."""
    estimate = estimate_mb(catalogue, model, entry) or 0
    return ceil_div(estimate, max(1, len(home(node, entry))))


def free_on(node: Node, indices: Iterable[int], now: float) -> dict[int, int]:
    """What is free on some devices."""
    return {index: free_mb(node, index, now) for index in indices}


def after_unload(node: Node, before_mb: Mapping[int, int], share_mb: int, now: float) -> None:
    """Note that a share has become free on devices that had ``before_mb``."""
    _bound(node, {i: free + share_mb for i, free in before_mb.items()}, floor=True, now=now)


def after_load(node: Node, before_mb: Mapping[int, int], taken_mb: int, now: float) -> None:
    """Note that so much has been taken of devices that had ``before_mb``."""
    _bound(node, {i: free - taken_mb for i, free in before_mb.items()}, floor=False, now=now)


def _bound(node: Node, free: Mapping[int, int], *, floor: bool, now: float) -> None:
    for index, mb in free.items():
        current = (old for old in node.adjustments.get(index, ()) if now < old.until)
        node.adjustments[index] = (*current, Adjustment(mb, floor, now + LAG_S))


def ceil_div(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)
