"""What follows from a catalogue: who fits where, who gives way to whom, what an id means."""

from __future__ import annotations

import pytest

from helexa.gateway.catalogue import Catalogue, Profile, feasible, usable_devices
from helexa.protocol.control import DeviceInfo


def devices(*vram_mb: int) -> list[DeviceInfo]:
    return [
        DeviceInfo(index=i, name="GPU", vram_total_mb=size, compute_capability="8.9")
        for i, size in enumerate(vram_mb)
    ]


BIG = Profile("big", vram_mb=45000, min_devices=2, min_device_vram_mb=24000)


@pytest.mark.parametrize(
    ("profile", "node", "vram_mb", "expected"),
    [
        (BIG, "a", (32000, 32000), True),
        (BIG, "a", (64000,), False),
        (BIG, "a", (32000, 12000), False),
        (BIG, "a", (12000, 24000, 24000), True),
        (Profile("p", pinned_on=("a",)), "a", (1000,), True),
        (Profile("p", pinned_on=("a",)), "b", (1000,), False),
        (Profile("p", vram_mb=45000, min_devices=2), "a", (1000, 1000), True),
        (Profile("p", min_devices=0), "a", (), True),
        (Profile("p"), "a", (), False),
    ],
)
def test_g007_feasible(
    profile: Profile, node: str, vram_mb: tuple[int, ...], expected: bool
) -> None:
    assert feasible(profile, node, devices(*vram_mb)) is expected


def test_usable_devices_keep_the_order_of_discovery() -> None:
    found = usable_devices(BIG, devices(24000, 12000, 48000))
    assert [device.index for device in found] == [0, 2]
    assert len(usable_devices(Profile("p"), devices(0, 1))) == 2


TIERS = Catalogue(
    {
        profile.id: profile
        for profile in (
            Profile("flagship", residency_priority=300, pinned_on=("a",)),
            Profile("frontier", residency_priority=300),
            Profile("image", residency_priority=200),
            Profile("mid", residency_priority=200),
            Profile("tiny", residency_priority=100),
        )
    }
)


@pytest.mark.parametrize(
    ("incoming", "resident", "expected"),
    [
        ("image", "mid", True),
        ("mid", "image", True),
        ("flagship", "frontier", True),
        ("frontier", "flagship", True),
        ("image", "flagship", False),
        ("tiny", "mid", False),
        ("tiny", "flagship", False),
        ("flagship", "tiny", True),
        ("image", "unlisted", True),
        ("unlisted", "tiny", True),
        (None, "unlisted", True),
        (None, "tiny", True),
        (None, "mid", False),
    ],
)
def test_g008_priorities(incoming: str | None, resident: str, expected: bool) -> None:
    assert TIERS.may_displace(incoming, resident) is expected


def test_g009_legacy_pin() -> None:
    catalogue = Catalogue(
        {
            "pinned": Profile("pinned", pinned_on=("a",)),
            "equal": Profile("equal", residency_priority=1000),
            "ordinary": Profile("ordinary"),
            "pinned-low": Profile("pinned-low", pinned_on=("a",), residency_priority=50),
            "roaming": Profile("roaming", residency_priority=900),
        }
    )
    assert not catalogue.may_displace("ordinary", "pinned")
    assert catalogue.may_displace("equal", "pinned")
    assert catalogue.may_displace("roaming", "pinned-low")
    assert catalogue.may_displace(None, "pinned-low")


def test_g010_alias_lookup() -> None:
    catalogue = Catalogue(aliases={"helexa/small": "Qwen/Qwen3-1.7B", "a": "b", "b": "c"})
    assert catalogue.resolve_alias("helexa/small") == "Qwen/Qwen3-1.7B"
    assert catalogue.resolve_alias("Qwen/Qwen3-8B") == "Qwen/Qwen3-8B"
    assert catalogue.resolve_alias("a") == "b"


def test_a_client_may_name_a_model_as_its_neuron_does() -> None:
    """Answers have the listed id, and some clients ask on with the id of an answer."""
    profiles = {"o/model": Profile("o/model", source="helexa")}
    catalogue = Catalogue(profiles, {"small": "helexa:o/model"})
    assert catalogue.resolve_alias("helexa:o/model") == "o/model"
    assert catalogue.resolve_alias("small") == "o/model"


@pytest.mark.parametrize(
    ("model", "source", "qualified"),
    [
        ("Qwen/Qwen3-30B", None, "Qwen/Qwen3-30B"),
        ("Qwen/Qwen3-30B", "", "Qwen/Qwen3-30B"),
        ("Org/Model-27B", "helexa", "helexa:Org/Model-27B"),
    ],
)
def test_g011_qualified_id(model: str, source: str | None, qualified: str) -> None:
    assert Profile(model, source=source).qualified_id == qualified


def test_both_forms_of_a_sourced_id_are_one_model() -> None:
    catalogue = Catalogue(
        {
            "o/sourced": Profile("o/sourced", source="helexa"),
            "o/plain": Profile("o/plain"),
            "helexa:o/odd": Profile("helexa:o/odd"),
            "o/odd": Profile("o/odd", source="helexa"),
        }
    )
    bare = {
        "helexa:o/sourced": "o/sourced",
        "o/sourced": "o/sourced",
        "other:o/sourced": "other:o/sourced",
        "helexa:o/plain": "helexa:o/plain",
        "helexa:o/unlisted": "helexa:o/unlisted",
        "helexa:o/odd": "helexa:o/odd",
        ":o/plain": ":o/plain",
    }
    assert {listed: catalogue.bare_id(listed) for listed in bare} == bare
