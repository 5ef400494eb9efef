"""What may be served, as the operator declares it: profiles, aliases, and what follows from them.

Pure: reading and re-reading the file is `catalogue_file`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from helexa.daemon.schema import (
    Kind,
    number,
    optional,
    required,
    setting,
    text,
    texts,
    whole,
)

if TYPE_CHECKING:
    from helexa.protocol.control import DeviceInfo

PINNED_PRIORITY = 1000
ORDINARY_PRIORITY = 100
ANYTHING = Kind("anything", lambda value: True, lambda value: None)


@dataclass(frozen=True, slots=True)
class Cost:
    """USD per million tokens; 0.0 is free, an absent cost is not priced."""

    input: float = setting(number(), 0.0, "USD per million tokens of prompts")
    output: float = setting(number(), 0.0, "USD per million tokens of answers")
    cache_read: float | None = setting(
        number(), None, "USD per million prompt tokens that were computed before"
    )
    cache_write: float | None = setting(
        number(), None, "USD per million prompt tokens that are kept for later"
    )


@dataclass(frozen=True, slots=True)
class Profile:
    """One model of the catalogue; memory in MiB."""

    id: str = required(text(empty=False), "the model, as neurons know it, without its source")
    harness: str = setting(text(), "candle", "which engine of a neuron loads it")
    quant: str | None = setting(text(), None, "sent to the neuron with the load")
    vram_mb: int | None = setting(
        whole(), None, "MiB that the whole model takes; without it, nothing is evicted for it"
    )
    min_devices: int = setting(
        whole(), 1, "devices it needs; 0: also a host that reports none will do"
    )
    min_device_vram_mb: int | None = setting(
        whole(), None, "MiB that a device must have in total to count"
    )
    pinned_on: tuple[str, ...] = setting(
        texts(), (), "the only neurons where it may be loaded", default_text="[]"
    )
    residency_priority: int | None = setting(
        whole(),
        None,
        "a model gives way to those of its own or a higher number",
        default_text=f"{PINNED_PRIORITY} with `pinned_on`, else {ORDINARY_PRIORITY}",
    )
    source: str | None = setting(
        text(convert=lambda scheme: scheme or None), None, 'scheme put before the id; `""`: none'
    )
    cost: Cost | None = optional(Cost)
    capabilities: tuple[str, ...] = setting(
        texts(), (), "what it can do, as long as no neuron has said", default_text="[]"
    )
    limit: None = setting(ANYTHING, None, "ignored: neurons know their limits")

    @property
    def qualified_id(self) -> str:
        """The id with its source's scheme, as neurons are told it."""
        return f"{self.source}:{self.id}" if self.source else self.id


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Profiles by id, in the file's order, and aliases."""

    profiles: Mapping[str, Profile] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)

    def resolve_alias(self, model: str) -> str:
        """The concrete id of what a client names: of an alias its target, looked up once.

        An id may be written with its source, as neurons write it in their answers.
        """
        return self.bare_id(self.aliases.get(model, model))

    def bare_id(self, listed: str) -> str:
        """The id under which a model that a node lists is known here."""
        scheme, colon, rest = listed.partition(":")
        if colon and listed not in self.profiles:
            profile = self.profiles.get(rest)
            if profile is not None and profile.source == scheme:
                return rest
        return listed

    def priority(self, model: str) -> int:
        """How firmly a model stays where it is."""
        profile = self.profiles.get(model)
        if profile is None:
            return ORDINARY_PRIORITY
        if profile.residency_priority is not None:
            return profile.residency_priority
        return PINNED_PRIORITY if profile.pinned_on else ORDINARY_PRIORITY

    def may_displace(self, incoming: str | None, resident: str) -> bool:
        """Whether a model may take the place of another: equal rank goes both ways.

        Without an incoming model, what is ordinary or below may go.
        """
        rank = ORDINARY_PRIORITY if incoming is None else self.priority(incoming)
        return rank >= self.priority(resident)


def feasible(profile: Profile, node: str, devices: Sequence[DeviceInfo]) -> bool:
    """Whether a node, by its name and devices, could ever hold the model."""
    if profile.pinned_on and node not in profile.pinned_on:
        return False
    return len(devices) >= profile.min_devices and (
        profile.min_device_vram_mb is None
        or len(usable_devices(profile, devices)) >= profile.min_devices
    )


def usable_devices(profile: Profile, devices: Sequence[DeviceInfo]) -> list[DeviceInfo]:
    """The devices that are large enough, in the order of discovery."""
    floor = profile.min_device_vram_mb or 0
    return [device for device in devices if device.vram_total_mb >= floor]
