"""What a catalogue's file may say, and every problem of one that cannot be used."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helexa.errors import ConfigError
from helexa.gateway.catalogue import Catalogue, Cost, Profile
from helexa.gateway.catalogue_file import parse_catalogue

ONE = '[[models]]\nid = "o/one"\n'


THREE = """
[[models]]
id = "id-only"

[[models]]
id = "Org/Model-27B"
harness = "other"
quant = "q6k"
vram_mb = 45000
min_devices = 2
min_device_vram_mb = 24000
pinned_on = ["a", "b"]
residency_priority = 300
source = "helexa"
cost.input = 0.5
cost.output = 2
capabilities = ["text", "vision"]
limit = { context = 999999, output = 5 }

[[models]]
id = "free"
source = ""
cost = {}

[aliases]
"helexa/small" = "Qwen/Qwen3-1.7B"
"v1.5" = "free"
"""


def test_g006_profile() -> None:
    catalogue, warnings = parse_catalogue(THREE.encode(), "models.toml")
    assert warnings == ()
    assert catalogue.aliases == {"helexa/small": "Qwen/Qwen3-1.7B", "v1.5": "free"}
    plain, whole, free = catalogue.profiles.values()
    assert plain == Profile("id-only")
    assert (plain.harness, plain.min_devices, plain.source, plain.cost) == ("candle", 1, None, None)
    assert whole == Profile(
        "Org/Model-27B",
        harness="other",
        quant="q6k",
        vram_mb=45000,
        min_devices=2,
        min_device_vram_mb=24000,
        pinned_on=("a", "b"),
        residency_priority=300,
        source="helexa",
        cost=Cost(0.5, 2.0),
        capabilities=("text", "vision"),
    )
    assert whole.qualified_id == "helexa:Org/Model-27B"
    assert (free.source, free.cost) == (None, Cost(0.0, 0.0))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("models = 5", ["models: expected a list of tables, got 5"]),
        ("[[models]]\n", ["models[0].id: is missing"]),
        (ONE + "vram_mb = -1", ["models[0].vram_mb: expected a non-negative integer, got -1"]),
        (ONE + "pinned_on = 'a'", ['models[0].pinned_on: expected a list of strings, got "a"']),
        (ONE + "capabilities = [1]", ["models[0].capabilities: expected a list of strings, got "]),
        (ONE + "cost = 1", ["models[0].cost: expected a table, got 1"]),
        (ONE + "cost.input = '1'", ['models[0].cost.input: expected a non-negative number, got "']),
        ("aliases = 5", ["aliases: expected a table, got 5"]),
        ("[aliases]\na = 5", ["aliases.a: expected a model id, got 5"]),
        ("[aliases]\na = ''", ['aliases.a: expected a model id, got ""']),
        ("[aliases]\nv1.5 = 'x'", ["aliases.v1: put an alias with a dot in it into quotes"]),
        ("[[models]]\n[[models]]", ["models[0].id: is missing", "models[1].id: is missing"]),
        ("[[models]\n", ["line 1, column 9: "]),
        ("a." * 3000 + "b = 1", ["nested too deeply"]),
        ("a = " + "[" * 3000, ["nested too deeply"]),
    ],
)
def test_a_catalogue_that_cannot_be_used(text: str, expected: list[str]) -> None:
    with pytest.raises(ConfigError) as refusal:
        parse_catalogue(text.encode(), "models.toml")
    found = refusal.value.problems
    assert len(found) == len(expected)
    assert all(line.startswith(start) for line, start in zip(found, expected, strict=True)), found


def toml(value: object) -> str:
    """A value as it is written in TOML."""
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(c):08x}" for c in value) + '"'
    if isinstance(value, tuple):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, Cost):
        given = {name: getattr(value, name) for name in Cost.__slots__}
        pairs = [f"{name} = {toml(cost)}" for name, cost in given.items() if cost is not None]
        return f"{{{', '.join(pairs)}}}"
    return repr(value)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9)
COUNT = st.integers(0, 2**63 - 1)
USD = st.floats(0, 1e9)
PROFILES = st.builds(
    Profile,
    id=TEXT,
    harness=TEXT,
    quant=st.none() | TEXT,
    vram_mb=st.none() | COUNT,
    min_devices=COUNT,
    min_device_vram_mb=st.none() | COUNT,
    pinned_on=st.lists(TEXT, max_size=3).map(tuple),
    residency_priority=st.none() | COUNT,
    source=st.none() | TEXT,
    cost=st.none() | st.builds(Cost, USD, USD, st.none() | USD, st.none() | USD),
    capabilities=st.lists(TEXT, max_size=3).map(tuple),
    limit=st.none(),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(PROFILES, max_size=3, unique_by=lambda p: p.id), st.dictionaries(TEXT, TEXT))
def test_g006_what_is_written_is_read(profiles: list[Profile], aliases: dict[str, str]) -> None:
    lines = []
    for profile in profiles:
        lines.append("[[models]]")
        given = {name: getattr(profile, name) for name in Profile.__slots__}
        lines += [f"{name} = {toml(value)}" for name, value in given.items() if value is not None]
    lines.append("[aliases]")
    lines += [f"{toml(alias)} = {toml(model)}" for alias, model in aliases.items()]
    expected = Catalogue({profile.id: profile for profile in profiles}, aliases)
    assert parse_catalogue("\n".join(lines).encode(), "models.toml") == (expected, ())


PIECES = st.sampled_from(
    [
        *("[[models]]\n", "[aliases]\n", "id = ", "cost.input = ", "vram_mb = ", "limit = "),
        *('"a"', "1", "nan", "inf", "-", "1979-05-27", "true"),
        *("[", "]", "{", "}", "=", ".", "#", "\n", "\x00", "é"),
    ]
)


@settings(max_examples=60, deadline=None)
@given(st.binary() | st.lists(PIECES).map(lambda pieces: "".join(pieces).encode()))
def test_whatever_is_in_a_file_it_is_read_or_refused(data: bytes) -> None:
    try:
        catalogue, _ = parse_catalogue(data, "models.toml")
    except ConfigError as error:
        assert error.problems
    else:
        assert all(profile.id == key for key, profile in catalogue.profiles.items())
