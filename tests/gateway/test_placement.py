"""Where a model goes, and what makes way for it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helexa.gateway.catalogue import Catalogue, Profile
from helexa.gateway.fleet import Entry, Node
from helexa.gateway.memory import after_load, after_unload, free_mb, free_on, free_on_usable
from helexa.gateway.placement import choose_devices, fits, load_body, rank, victims
from tests.gateway.fleets import TIERS, catalogue, discovery, load, loaded, node, readings
from tests.protocol.builders import quick

BIG = Profile("big", vram_mb=10_000)
NOW = 1000.0


def names(profile: Profile, *nodes: Node) -> list[str]:
    return [found.name for found in rank(profile, nodes, catalogue(profile), NOW)]


def test_g050_pick_order() -> None:
    z = node("z", free_mb=(12_000,))
    a = node("a", free_mb=(1_000,), entries=loaded("old", vram_mb=20_000))
    b = node("b", free_mb=(9_000,))
    assert names(BIG, b, a, z) == ["z", "a", "b"]
    assert names(BIG, b, a) == ["a", "b"]
    more, also, less = (
        node(name, free_mb=free)
        for name, free in (("q", (20_000,)), ("p", (20_000,)), ("a", (1, 15_000)))
    )
    assert names(BIG, more, also, less) == ["p", "q", "a"]


def test_a_node_that_loads_something_comes_after_one_that_does_not() -> None:
    busy, idle = node("a", free_mb=(20_000,), loading={"x": 1.0}), node("b", free_mb=(11_000,))
    short = node("c", free_mb=(1,))
    assert names(BIG, busy, idle, short) == ["b", "a", "c"]


def test_what_outranks_the_incoming_model_counts_as_taken() -> None:
    kept = {"firm": Entry("firm", vram_estimate_mb=20_000)}
    a = node("a", free_mb=(0,), entries=kept)
    b = node("b", free_mb=(0,), entries=loaded("loose", vram_mb=20_000))
    firm = Profile("firm", residency_priority=200)
    found = rank(BIG, [a, b], catalogue(BIG, firm), NOW)
    assert [found.name for found in found] == ["b", "a"]


@pytest.mark.parametrize(
    ("profile", "free", "fit", "devices"),
    [
        (Profile("m", vram_mb=45_000, min_devices=2), (24_000, 24_000), True, (0, 1)),
        (Profile("m", vram_mb=45_000, min_devices=2), (50_000, 10_000), False, (0, 1)),
        (Profile("m", vram_mb=45_001, min_devices=2), (22_500, 22_500), False, (0, 1)),
        (Profile("m", vram_mb=8_000), (1_000, 9_000, 10_000), True, (1,)),
        (Profile("m", vram_mb=16_000, min_devices=2), (1, 2, 9_000), False, (0, 2)),
        (Profile("m"), (0, 0), True, (0,)),
        (Profile("m", vram_mb=8_000, min_devices=0), (), True, None),
        (Profile("m", vram_mb=8_000, min_devices=0), (1,), True, None),
    ],
    ids="g051_two short_second rounded_up first_roomy filled_up unknown none none_of_one".split(),
)
def test_fit_and_devices(
    profile: Profile, free: tuple[int, ...], fit: bool, devices: tuple[int, ...] | None
) -> None:
    host = node(free_mb=free)
    assert fits(profile, free_on_usable(profile, host, NOW)) == fit
    assert choose_devices(profile, host, NOW) == devices


def test_small_devices_are_not_used() -> None:
    profile = Profile("m", vram_mb=1_000, min_devices=2, min_device_vram_mb=24_000)
    host = Node(
        "n",
        "http://n",
        discovery=discovery(32_000, 12_000, 24_000),
        device_health=readings(5_000, 5_000, 100),
    )
    assert choose_devices(profile, host, NOW) == (0, 2)
    assert not fits(profile, free_on_usable(profile, host, NOW))


def test_g058_the_body_of_a_load() -> None:
    profile = Profile("o/m", quant="q6k", min_devices=2, source="helexa")
    body = load_body(profile, node(free_mb=(9, 9, 9)), NOW)
    assert body.to_wire() == {
        "model_id": "helexa:o/m",
        "harness": "candle",
        "quant": "q6k",
        "tensor_parallel": 2,
        "devices": [0, 1],
    }
    body = load_body(Profile("o/m", min_devices=0), node(), NOW)
    assert body.to_wire() == {
        "model_id": "o/m",
        "harness": "candle",
        "quant": None,
        "tensor_parallel": None,
        "devices": None,
    }


def test_readings_are_corrected_until_they_have_caught_up() -> None:
    host = node(free_mb=(1_000, 500))
    after_unload(host, free_on(host, (0,), NOW), 8_000, NOW)
    assert (free_mb(host, 0, NOW + 14), free_mb(host, 1, NOW)) == (9_000, 500)
    after_load(host, free_on(host, (0,), NOW), 6_000, NOW + 5)
    assert free_mb(host, 0, NOW + 6) == 3_000
    host.device_health = readings(2_500, 500)
    assert free_mb(host, 0, NOW + 6) == 3_000  # 9 000 at least, then 3 000 at most
    assert free_mb(host, 0, NOW + 16) == 2_500
    assert free_mb(host, 0, NOW + 21) == 2_500
    assert free_mb(host, 7, NOW) == 0


def test_a_load_before_an_unload_is_not_forgotten() -> None:
    host = node(free_mb=(16_000,))
    after_load(host, free_on(host, (0,), NOW), 8_000, NOW)
    after_unload(host, free_on(host, (0,), NOW + 1), 4_000, NOW + 1)
    assert free_mb(host, 0, NOW + 2) == 12_000


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [("priority", ["low-now", "high-old"]), ("lru", ["high-old", "low-now"])],
)
def test_g055_victim_order(strategy: str, expected: list[str]) -> None:
    known = catalogue(
        Profile("low-now", residency_priority=100), Profile("high-old", residency_priority=200)
    )
    host = node(
        entries={
            "low-now": Entry("low-now", last_accessed=NOW),
            "high-old": Entry("high-old", last_accessed=0.0),
        }
    )
    incoming = Profile("in", residency_priority=300)
    assert victims(host, Catalogue({**known.profiles, "in": incoming}), "in", strategy) == expected


@pytest.mark.parametrize("strategy", ["lru", "priority"])
@pytest.mark.parametrize(
    "busy", [{"own": {"old": 1}}, {"load": {"old": load(0, 1, "old")}}], ids=["own", "reported"]
)
def test_g055_the_idle_one_goes_before_the_busy_one(strategy: str, busy: dict[str, Any]) -> None:
    entries = {"old": Entry("old", last_accessed=1.0), "new": Entry("new", last_accessed=9.0)}
    host = node(entries=entries, **busy)
    assert victims(host, Catalogue(), None, strategy) == ["new", "old"]


def test_never_used_goes_first_and_then_the_name_decides() -> None:
    entries = {
        "c": Entry("c", last_accessed=-5.0),
        "b": Entry("b"),
        "a": Entry("a"),
        "d": Entry("d", status="reloading"),
        "e": Entry("e", status="unloaded"),
    }
    assert victims(node(entries=entries), Catalogue(), None, "lru") == ["a", "b", "c"]


PRIORITIES = st.none() | st.integers(0, 3)
NAMES = st.sampled_from("abcdef")


@st.composite
def hosts(draw: st.DrawFn) -> tuple[Node, Catalogue]:
    profiles = {
        name: Profile(
            name,
            residency_priority=draw(PRIORITIES),
            vram_mb=draw(st.none() | st.integers(0, 5)),
            min_devices=draw(st.integers(0, 2)),
        )
        for name in draw(st.sets(NAMES))
    }
    entries = {
        name: Entry(
            name,
            status=draw(st.sampled_from(["loaded", "unloaded", "loading"])),
            vram_estimate_mb=draw(st.none() | st.integers(0, 5)),
            last_accessed=draw(st.none() | st.floats(0, 9)),
            devices=tuple(draw(st.sets(st.integers(0, 2)))),
        )
        for name in draw(st.sets(NAMES))
    }
    free = draw(st.tuples(st.integers(0, 5), st.integers(0, 5)))
    own = {name: draw(st.integers(0, 2)) for name in entries}
    return node(free_mb=free, entries=entries, own=own), Catalogue(profiles)


@quick
@given(hosts(), NAMES, st.sampled_from(["lru", "priority"]), st.randoms())
def test_victims_never_outrank_the_incoming_model(
    host: tuple[Node, Catalogue], incoming: str, strategy: str, random: Any
) -> None:
    where, known = host
    found = victims(where, known, incoming, strategy)
    assert incoming not in found
    for model in found:
        assert known.priority(model) <= known.priority(incoming)
        assert where.entries[model].status == "loaded"
    items = list(where.entries.items())
    random.shuffle(items)
    where.entries = dict(items)
    assert victims(where, known, incoming, strategy) == found


@quick
@given(hosts(), st.integers(0, 3), st.integers(0, 9))
def test_devices_are_as_many_as_needed_and_roomy_ones_first(
    host: tuple[Node, Catalogue], min_devices: int, vram_mb: int
) -> None:
    where, _ = host
    profile = Profile("in", vram_mb=vram_mb, min_devices=min_devices)
    chosen = choose_devices(profile, where, NOW)
    if chosen is None:
        assert min_devices == 0
        return
    assert list(chosen) == sorted(set(chosen))
    assert len(chosen) == min(min_devices, 2)
    free = free_on_usable(profile, where, NOW)
    need = -(-vram_mb // min_devices)
    if min_devices <= 2:
        assert fits(profile, free) == all(free[index] >= need for index in chosen)


def test_the_tiers_of_these_tests_are_what_they_seem() -> None:
    priorities = [Catalogue(TIERS).priority(name) for name in TIERS]
    assert priorities == [300, 300, 200, 200, 100]
