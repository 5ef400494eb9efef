"""The pages about the gateway are true: routes, errors, metrics, log lines, settings, examples."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest
from prometheus_client.parser import text_string_to_metric_families

from helexa.errors import HelexaError
from helexa.gateway import refusals
from helexa.gateway.api.errors import render
from helexa.gateway.api.images import image_units, tokens_for
from helexa.gateway.api.models import Listed
from helexa.gateway.app import build_app, server_config
from helexa.gateway.catalogue import Cost
from helexa.gateway.catalogue_file import parse_catalogue
from helexa.gateway.config import GatewayConfig
from helexa.gateway.config_layers import load_config
from helexa.gateway.entitlements import sqlite
from helexa.gateway.entitlements.budget import Account, Budget, available, charge, reserve
from helexa.gateway.entitlements.provider import exhausted
from helexa.gateway.fleet import Fleet
from helexa.gateway.metrics import Metrics, RetryReason
from helexa.gateway.proxy.call import Outcome
from helexa.gateway.state import State
from helexa.http import Client, faults
from helexa.protocol.control import Limit, ModelLoad
from helexa.refusals import (
    HeadersTooLarge,
    InvalidApiKey,
    MethodNotAllowed,
    Refusal,
    RequestTimeout,
    RequestTooLarge,
    ShuttingDown,
    TargetTooLong,
    UnknownUrl,
    UnsupportedMediaType,
)
from tests.gateway.doc_parts import code, page, table, toml_blocks
from tests.gateway.fleets import loaded, node, readings
from tests.gateway.front import front
from tests.gateway.mocks import mock_neuron
from tests.http.wire import settle

GUIDE, API, BUDGETS = page("gateway.md"), page("gateway-api.md"), page("budgets.md")

ROUTING: tuple[tuple[HelexaError, str], ...] = (
    (refusals.UnknownModel("M"), ""),
    (refusals.NoHealthyNodes(), "5"),
    (refusals.Recovering("M", "N"), "2"),
    (refusals.FeasibleNodeUnhealthy("M"), "3"),
    (refusals.NoFeasibleNeuron("M"), ""),
    (refusals.NoServableReplica("M", "N", "insufficient_vram"), "5"),
    (refusals.Loading("M", "N"), "10"),
    (
        refusals.ColdLoadFailed("M", "N", "HTTP 500: …", retry_after_s=17),
        "what is left of the back-off",
    ),
    (refusals.ColdLoadFailed("M", "N", "HTTP 422: …", refused=True, retry_after_s=17), ""),
    (refusals.EndpointResolveFailed("M", "N"), "2"),
)
ERRORS: tuple[Exception, ...] = (
    *(error for error, _ in ROUTING),
    *(refusals.MissingModelField(), refusals.OverContext(2, 1), refusals.ThreadsNotKept()),
    *(refusals.InvalidAnthropicBody("", ""), refusals.AuthorityUnavailable()),
    *(refusals.LedgerUnavailable(), refusals.OutOfBuffers(), refusals.Draining()),
    *(Refusal("x"), InvalidApiKey(), UnknownUrl("GET", "/"), MethodNotAllowed("GET", "/", [])),
    *(RequestTimeout("x"), RequestTooLarge(1), UnsupportedMediaType("x"), HeadersTooLarge("x")),
    TargetTooLong(1),
    *(exhausted(2, 1, 60), exhausted(2, 1, None), ShuttingDown("x"), ValueError("x")),
    *(faults.UpstreamError("x"), faults.UpstreamUnreachable("x")),
    *(faults.UpstreamTimeout("x"), faults.UpstreamMalformed("x")),
)
NOT_FOR_CLIENTS = {"EvictionFailed", "StillBusy", "LedgerUnusable", "NeuronCallFailed"}


def test_the_reference_names_every_route() -> None:
    app = build_app(State(GatewayConfig(), Fleet(), Client()))
    listed = [name for row in table(API, "route") for name in code(row["route"])]
    assert sorted(listed) == sorted(f"{method} {pattern}" for method, pattern in app.routes)


def test_the_reference_names_every_error_and_no_other() -> None:
    ours = (value for _, value in inspect.getmembers(refusals, inspect.isclass))
    made = {type(error) for error in ERRORS}
    assert {
        kind.__name__ for kind in ours if kind.__module__ == refusals.__name__ and kind not in made
    } == NOT_FOR_CLIENTS
    told = set()
    for error in ERRORS:
        response = render(error)
        wire = json.loads(response.body)["error"]
        told.add((str(response.status), f"`{wire['code']}`", f"`{wire['type']}`"))
    listed = [(row["status"], row["code"], row["`type`"]) for row in table(API, "`type`")]
    assert len(listed) == len(set(listed))
    assert set(listed) == told


def test_the_guide_tells_what_a_client_sees_of_routing() -> None:
    expected = [
        {
            "status": str(error.status),
            "code": f"`{error.code}`",
            "`Retry-After`": wait,
            "message": error.wire_message,
        }
        for error, wait in ROUTING
    ]
    assert table(GUIDE, "`Retry-After`", "message") == expected
    for error, wait in ROUTING:
        assert str(error.retry_after_s or "") == (wait if wait.isdecimal() else wait and "17")


def everything() -> Iterator[tuple[str, str, str]]:
    """Name, type and labels of every family that a gateway can have."""
    seats = ModelLoad(id="m", in_flight=0, queue_depth=0, max_in_flight=1, anon_max_in_flight=1)
    health = readings(1)
    metrics = Metrics(
        Fleet.of([node(entries=loaded("m"), load={"m": seats}, device_health=health)])
    )
    place = ("m", "n")
    for count in (metrics.request, metrics.request_error, metrics.cold_start, metrics.evicted):
        count(*place)
    for count in (metrics.images_request, metrics.images_generated):
        count(*place)
    metrics.tokens(*place, 1, 1, 1)
    metrics.retried(*place, "503")
    metrics.spent("a", "k", 1, 1)
    metrics.spent_images("a", "k", 1)
    for observe in (metrics.duration, metrics.images_duration):
        observe(*place, 1.0)
    for observe in (metrics.first_token, metrics.tokens_per_second):
        observe(*place, 1.0)
    for family in text_string_to_metric_families(metrics.text().decode()):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = [label for label in family.samples[0].labels if label != "le"]
        yield f"`{name}`", family.type, ", ".join(sorted(labels))


def test_the_guide_names_every_metric() -> None:
    rows = table(GUIDE, "name", "type", "labels")
    told = [
        (row["name"], row["type"], ", ".join(sorted(row["labels"].split(", ")))) for row in rows
    ]
    assert sorted(told) == sorted(everything())


def test_the_guide_names_every_reason_of_a_second_attempt() -> None:
    rows = table(GUIDE, "`reason` in `cortex_retries_total`")
    told = [name for row in rows for name in code(row["`reason` in `cortex_retries_total`"])]
    assert tuple(told) == get_args(RetryReason)


@pytest.mark.anyio
async def test_the_guide_names_every_field_of_the_line() -> None:
    async with mock_neuron() as mock, front(mock) as gw:
        await gw.post()
        await settle(lambda: bool(gw.outcomes))
        told = [name for row in table(GUIDE, "field") for name in code(row["field"])]
        assert told == list(gw.outcomes[0])
    outcomes = [code(row["`outcome`"])[0] for row in table(GUIDE, "`outcome`", "level")]
    assert sorted(outcomes) == sorted(get_args(Outcome))


def test_the_guide_has_the_defaults() -> None:
    config = GatewayConfig()
    for row in table(GUIDE, "setting", "seconds"):
        section, name = code(row["setting"])[0].split(".")
        assert getattr(getattr(config, section), name) == float(row["seconds"]), row
    limits = server_config(State(config, Fleet(), Client()), "127.0.0.1", 0)
    rows = table(GUIDE, "what", "limit", "then")
    told = [int(number) for row in rows for number in re.findall(r"\d+", row["limit"])]
    mib, kib = 2**20, 1024
    assert told == [
        *(limits.max_body_bytes // mib, config.limits.max_buffered_bytes // 2**30),
        *(limits.max_connections, limits.max_head_bytes // kib, limits.max_fields),
        *(limits.max_target_bytes // kib, limits.header_timeout_s),
        *(limits.body_timeout_s, limits.idle_timeout_s),
    ]


def test_the_examples_of_configuration_are_understood(tmp_path: Path) -> None:
    gateway, catalogue = toml_blocks(GUIDE)
    (keys,) = toml_blocks(BUDGETS)
    for text in (gateway, f"neurons = []\n{keys}"):
        path = tmp_path / "gateway.toml"
        path.write_text(text, "utf-8")
        found = load_config(path, environ={})
        assert found.warnings == ()
        assert found.config.entitlements.keys
    known, warnings = parse_catalogue(catalogue.encode(), "models.toml")
    assert (warnings, set(known.aliases.values())) == ((), set(known.profiles))


def test_the_reference_names_all_of_a_model() -> None:
    found = Listed("m", limit=Limit(context=3, input=2, output=1), cost=Cost(1, 1, 1, 1)).wire(0)
    told = [name for row in table(API, "key", "value") for name in code(row["key"])]
    assert sorted(told) == sorted(found)
    (prices,) = (row["value"] for row in table(API, "key", "value") if row["key"] == "`cost`")
    assert code(prices) == [field.name for field in fields(Cost)]


def test_the_example_of_a_budget() -> None:
    budget, account = Budget(cap=1000), Account()
    states = [account]
    for tokens, used in ((400, None), (700, None), (400, 250), (750, None), (750, 0)):
        if used is None:
            account, refused = reserve(account, budget, tokens, 0)
            assert (refused is not None) == (tokens == 700)
        else:
            account = charge(account, reserved=tokens, actual=used, held=True)
        states.append(account)
    told = [
        tuple(int(row[name]) for name in ("spent", "reserved", "left"))
        for row in table(BUDGETS, "what happens", "left")
    ]
    assert told == [(now.spent, now.reserved, available(now, budget)) for now in states]


def test_the_price_of_a_picture() -> None:
    units = image_units({"size": "1024x1024", "num_steps": 9})
    assert f"{units} units, or {tokens_for(units)}\ntokens" in BUDGETS.replace(". ", ".\n")


def test_the_architecture_names_every_room() -> None:
    found = {
        f"{path.name}/" if path.is_dir() else path.name
        for path in Path(refusals.__file__).parent.iterdir()
        if not path.name.startswith("__")
    }
    told = [name for row in table(page("architecture.md"), "room") for name in code(row["room"])]
    assert sorted(told) == sorted(found)


def test_the_tables_of_the_ledger() -> None:
    made = re.findall(r"CREATE TABLE IF NOT EXISTS (\w+)", sqlite.SCHEMA)
    told = [name for row in table(BUDGETS, "table") for name in code(row["table"])[:1]]
    assert sorted(told) == sorted(made)
