"""docs/placement.md is true: its examples, played with the functions that decide."""

from __future__ import annotations

from dataclasses import replace

import pytest

from helexa.gateway.catalogue import Catalogue, Profile
from helexa.gateway.catalogue_file import parse_catalogue
from helexa.gateway.fleet import Entry, Fleet, Node
from helexa.gateway.memory import free_on_usable, need_mb, share_mb
from helexa.gateway.placement import fits, is_feasible, rank, victims
from tests.gateway.doc_parts import Table, page, table, tables, toml_blocks
from tests.gateway.fleets import node, readings

TEXT = page("placement.md")
NOW = 0.0


@pytest.fixture
def catalogue() -> Catalogue:
    (block,) = toml_blocks(TEXT)
    found, warnings = parse_catalogue(block.encode(), "placement.md")
    assert not warnings
    return found


class Play:
    """A fleet in which models are asked for one by one."""

    def __init__(self, catalogue: Catalogue, strategy: str, *nodes: Node) -> None:
        self.catalogue, self.strategy = catalogue, strategy
        self.fleet = Fleet.of(nodes)
        self.turn = 0

    def ask(self, model: str) -> tuple[str, list[str]]:
        """Where a model that nobody has is loaded, and what leaves for it."""
        profile = self.catalogue.profiles[model]
        feasible = [node for node in self.fleet.healthy if is_feasible(profile, node)]
        node = rank(profile, feasible, self.catalogue, NOW)[0]
        gone = list(self.make_room(profile, node))
        if fits(profile, free_on_usable(profile, node, NOW)):
            self.turn += 1
            self.take(node, need_mb(profile))
            node.entries[model] = Entry(model, devices=(0,), last_accessed=self.turn)
        return node.name, gone

    def make_room(self, profile: Profile, node: Node) -> list[str]:
        gone: list[str] = []
        while not fits(profile, free_on_usable(profile, node, NOW)):
            order = victims(node, self.catalogue, profile.id, self.strategy)
            if not order or len(gone) == 3:
                break
            entry = node.entries.pop(order[0])
            self.take(node, -share_mb(self.catalogue, node, order[0], entry))
            gone.append(order[0])
        return gone

    def take(self, node: Node, mb: int) -> None:
        node.device_health = readings(node.device_health[0].vram_free_mb - mb)

    def free(self, name: str) -> int:
        return self.fleet.nodes[name].device_health[0].vram_free_mb

    def has(self, model: str) -> bool:
        return any(model in node.entries for node in self.fleet.nodes.values())


def hosts() -> list[Node]:
    found = [
        node(row["host"], free_mb=(int(row["free, MiB"]),), total_mb=int(row["card, MiB"]))
        for row in table(TEXT, "host", "card, MiB")
    ]
    found[0].entries["flagship"] = Entry("flagship", devices=(0,), last_accessed=0)
    return found


def steps() -> list[Table]:
    return [rows for rows in tables(TEXT) if "asked for" in rows[0]]


def check(play: Play, rows: Table) -> None:
    for row in rows:
        asked = row["asked for"]
        told = (row["goes to"], [row["evicted"]] if row["evicted"] else [])
        assert play.ask(asked) == told, row
        free = [row["free after, left"], row["free after, right"]]
        assert [str(play.free("left")), str(play.free("right"))] == free, row
        assert play.has("flagship")


def test_the_worked_example(catalogue: Catalogue) -> None:
    rows, _ = steps()
    play = Play(catalogue, "lru", *hosts())
    check(play, rows)
    assert not play.has("helper")  # the last row


def test_the_example_by_priority(catalogue: Catalogue) -> None:
    rows, other = steps()
    play = Play(catalogue, "priority", *hosts())
    check(play, [*rows[:3], *other])


def test_who_may_evict_whom(catalogue: Catalogue) -> None:
    first = "wants room ↓, is loaded →"
    rows = table(TEXT, first)
    assert [row[first] for row in rows] == list(catalogue.profiles)
    for row in rows:
        told = {name: word == "yes" for name, word in row.items() if name != first}
        assert told == {
            name: catalogue.may_displace(row[first], name)
            for name in (*catalogue.profiles, "unlisted")
        }


TRAPS = {
    "`residency_priority = 200`": {"residency_priority": 200},
    "`residency_priority = 300`": {"residency_priority": 300},
    '`pinned_on = ["left"]`, no priority': {"residency_priority": None, "pinned_on": ("left",)},
}


@pytest.mark.parametrize("row", table(TEXT, "`painter` has"), ids=lambda row: row["evictions"])
def test_the_traps(catalogue: Catalogue, row: dict[str, str]) -> None:
    changed = TRAPS[row["`painter` has"]]
    painter = replace(catalogue.profiles["painter"], vram_mb=20_000, **changed)  # type: ignore[arg-type]  # any field
    profiles = {**catalogue.profiles, "painter": painter}
    play = Play(Catalogue(profiles), "lru", node("left", free_mb=(49_000,), total_mb=49_152))
    evicted = [
        gone
        for model in ("flagship", "painter", "flagship", "painter")
        if not play.has(model)
        for gone in play.ask(model)[1]
    ]
    assert len(evicted) == int(row["evictions"])
    assert play.has("flagship") == ("200" in row["`painter` has"])


def test_ranks_without_a_priority() -> None:
    assert "without one 1000 if it is pinned, else 100" in TEXT
    found = Catalogue({"pinned": Profile("pinned", pinned_on=("a",)), "free": Profile("free")})
    assert [found.priority(model) for model in ("pinned", "free", "unlisted")] == [1000, 100, 100]


def test_the_share_of_several_devices() -> None:
    assert "`vram_mb = 45000` with `min_devices = 2` needs 22500 MiB" in TEXT
    assert need_mb(Profile("m", vram_mb=45_000, min_devices=2)) == 22_500
