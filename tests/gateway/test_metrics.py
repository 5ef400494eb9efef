"""What Prometheus reads of a gateway, name by name."""

from __future__ import annotations

import math
import timeit
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.parser import text_string_to_metric_families as parse
from prometheus_client.samples import Sample

from helexa.gateway.fleet import Entry, Fleet, Node
from helexa.gateway.metrics import CONTENT_TYPE, TOKENS_PER_SECOND, Metrics
from helexa.protocol.control import DeviceHealth, ModelLoad

LOAD = ModelLoad(
    id="test-model",
    in_flight=3,
    queue_depth=2,
    max_in_flight=8,
    max_queue_depth=8,
    rejected_queue_full=5,
    rejected_timeout=1,
    tok_s_prefill=950.0,
    tok_s_decode=47.5,
)
DEVICE = DeviceHealth(
    index=0, vram_used_mb=21000, vram_free_mb=11000, utilization_pct=73, temp_c=61
)
PLACE = {"model": "test-model", "node": "gpu-a"}


def fleet(load: ModelLoad = LOAD, model: str = "test-model") -> Fleet:
    node = Node("gpu-a", "http://gpu-a:13131", healthy=True)
    node.entries[model] = Entry(listed_id=model)
    node.load[model] = load
    node.device_health[0] = DEVICE
    return Fleet.of([node])


def samples(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every series of the text, as a reader of it sees them."""
    found = {}
    for family in parse(metrics.text().decode()):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


def value(metrics: Metrics, series: str, **labels: str) -> float | None:
    return samples(metrics).get((f"cortex_{series}", frozenset(labels.items())))


def families(metrics: Metrics) -> dict[str, str]:
    return {family.name: family.type for family in parse(metrics.text().decode())}


def everything(metrics: Metrics) -> None:
    metrics.request("m", "n")
    metrics.request_error("m", "n")
    metrics.cold_start("m", "n")
    metrics.tokens("m", "n", 10, 5, 4)
    metrics.images_request("m", "n")
    metrics.images_generated("m", "n")
    metrics.evicted("m", "n")
    metrics.retried("m", "n", "503")
    metrics.spent("acct", "key", 10, 5)
    metrics.spent_images("acct", "key", 9437)
    metrics.duration("m", "n", 0.2)
    metrics.images_duration("m", "n", 11.0)
    metrics.first_token("m", "n", 0.42)
    metrics.tokens_per_second("m", "n", 33.0)


COUNTED = {
    "requests_total": 1,
    "request_errors_total": 1,
    "cold_starts_total": 1,
    "prompt_tokens_total": 10,
    "completion_tokens_total": 5,
    "cached_prompt_tokens_total": 4,
    "images_requests_total": 1,
    "images_generated_total": 1,
    "evictions_total": 1,
    "request_duration_seconds_count": 1,
    "request_duration_seconds_sum": 0.2,
    "images_generation_seconds_sum": 11,
    "time_to_first_token_seconds_sum": 0.42,
    "tokens_per_second_sum": 33,
}
CHARGED = {
    "spend_tokens_total": 15,
    "spend_prompt_tokens_total": 10,
    "spend_completion_tokens_total": 5,
    "spend_image_milliunits_total": 9437,
}
BUCKETS = {
    "request_duration_seconds": "0.1 0.5 1 2.5 5 10 30 60 120 300 600 1200 +Inf",
    "images_generation_seconds": "0.1 0.5 1 2.5 5 10 30 60 120 300 600 1200 +Inf",
    "time_to_first_token_seconds": "0.05 0.1 0.25 0.5 1 2 5 10 20 30 60 120 +Inf",
    "tokens_per_second": "1 2.5 5 10 15 20 30 40 60 80 120 200 +Inf",
}


def test_every_call_counts_under_its_name_and_labels() -> None:
    metrics = Metrics(Fleet())
    everything(metrics)
    for name, expected in COUNTED.items():
        assert value(metrics, name, model="m", node="n") == expected, name
    for name, expected in CHARGED.items():
        assert value(metrics, name, account="acct", key="key") == expected, name
    assert value(metrics, "retries_total", model="m", node="n", reason="503") == 1


@pytest.mark.parametrize("name", BUCKETS)
def test_buckets(name: str) -> None:
    metrics = Metrics(Fleet())
    everything(metrics)
    found = [
        dict(labels)["le"]
        for series, labels in samples(metrics)
        if series == f"cortex_{name}_bucket"
    ]
    assert found == BUCKETS[name].split()


def test_g177_families_without_series_print_nothing() -> None:
    metrics = Metrics(Fleet())
    assert metrics.text() == b""
    metrics.request("test-model", "mock-node")
    metrics.duration("test-model", "mock-node", 0.01)
    assert families(metrics) == {
        "cortex_requests": "counter",
        "cortex_request_duration_seconds": "histogram",
    }


def test_g180_gauges_of_loads_and_devices() -> None:
    metrics = Metrics(fleet())
    for name, expected in {
        "in_flight": 3,
        "queue_depth": 2,
        "max_in_flight": 8,
        "max_queue_depth": 8,
        "tok_s_prefill": 950,
        "tok_s_decode": 47.5,
    }.items():
        assert value(metrics, f"model_{name}", **PLACE) == expected, name
    for reason, expected in {"queue_full": 5, "wait_timeout": 1, "per_principal": 0}.items():
        assert value(metrics, "model_rejections_total", **PLACE, reason=reason) == expected
    for name, expected in {
        "vram_used_mb": 21000,
        "vram_free_mb": 11000,
        "utilization_pct": 73,
        "temp_c": 61,
    }.items():
        assert value(metrics, f"device_{name}", node="gpu-a", device="0") == expected, name
    assert families(metrics)["cortex_model_rejections"] == "counter"
    assert families(metrics)["cortex_model_in_flight"] == "gauge"
    assert value(metrics, "node_up", node="gpu-a") == 1


def test_seats_are_told_only_by_who_has_some() -> None:
    old = Metrics(fleet(ModelLoad(id="test-model", in_flight=1, queue_depth=3)))
    assert value(old, "model_in_flight", **PLACE) == 1
    assert not {name for name in families(old) if "max" in name or "anon" in name}
    anon = ModelLoad(
        id="test-model", in_flight=1, queue_depth=0, anon_in_flight=1, anon_max_in_flight=7
    )
    new = Metrics(fleet(anon))
    assert value(new, "model_anon_in_flight", **PLACE) == 1
    assert value(new, "model_anon_max_in_flight", **PLACE) == 7


def test_g181_histograms_are_histograms() -> None:
    metrics = Metrics(Fleet())
    metrics.first_token("m", "n", 0.42)
    text = metrics.text().decode()
    assert families(metrics) == {"cortex_time_to_first_token_seconds": "histogram"}
    assert "quantile=" not in text
    assert "_created" not in text
    name = "time_to_first_token_seconds_bucket"
    assert value(metrics, name, model="m", node="n", le="0.25") == 0
    assert value(metrics, name, model="m", node="n", le="0.5") == 1
    assert value(metrics, name, model="m", node="n", le="+Inf") == 1


def test_g182_series_go_with_their_model() -> None:
    seen = fleet()
    metrics = Metrics(seen)
    metrics.request("test-model", "gpu-a")
    del seen.nodes["gpu-a"].entries["test-model"]
    assert {name for name in families(metrics) if "_model_" in name} == set()
    assert value(metrics, "device_temp_c", node="gpu-a", device="0") == 61
    assert value(metrics, "requests_total", **PLACE) == 1


def test_g182_series_go_with_their_node() -> None:
    seen = fleet()
    metrics = Metrics(seen)
    seen.nodes["gpu-a"].healthy = False
    assert samples(metrics) == {("cortex_node_up", frozenset({("node", "gpu-a")})): 0}


def test_tokens_that_were_not_there_make_no_series_but_charges_of_zero_do() -> None:
    metrics = Metrics(Fleet())
    metrics.tokens("m", "n", 10, 0, 0)
    metrics.spent("acct", "key", 0, 0)
    assert set(families(metrics)) == {
        "cortex_prompt_tokens",
        "cortex_spend_tokens",
        "cortex_spend_prompt_tokens",
        "cortex_spend_completion_tokens",
    }
    assert value(metrics, "spend_tokens_total", account="acct", key="key") == 0


@given(st.text(min_size=1), st.text(min_size=1))
def test_labels_come_back_as_they_were(model: str, node: str) -> None:
    metrics = Metrics(Fleet())
    metrics.request(model, node)
    found = [line for line in metrics.text().decode().split("\n") if not line.startswith("#")]
    assert len(found) == 2  # one line, and the end of it
    if found[0].isascii() and found[0].isprintable():  # the reader at hand splits at other ends
        assert value(metrics, "requests_total", model=model, node=node) == 1


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_any_number_a_node_may_send_can_be_read_back(rate: float) -> None:
    load = replace(LOAD, tok_s_decode=rate)
    found = value(Metrics(fleet(load)), "model_tok_s_decode", **PLACE)
    assert found == rate or (found is not None and math.isnan(found) and math.isnan(rate))


@given(st.lists(st.floats(0, 1000), min_size=1))
def test_buckets_are_those_of_the_common_library(values: list[float]) -> None:
    ours, theirs = Metrics(Fleet()), CollectorRegistry()
    other = Histogram(
        "cortex_tokens_per_second",
        "",
        ["model", "node"],
        buckets=TOKENS_PER_SECOND,
        registry=theirs,
    )
    for each in values:
        ours.tokens_per_second("m", "n", each)
        other.labels("m", "n").observe(each)

    def plain(found: list[Sample]) -> list[tuple[str, float, float]]:
        return [
            (sample.name, float(sample.labels.get("le", 0)), sample.value)
            for sample in found
            if not sample.name.endswith("_created")
        ]

    (family,) = parse(ours.text().decode())
    (wanted,) = theirs.collect()
    assert sorted(plain(family.samples)) == sorted(plain(wanted.samples))


def cost_us(call: Callable[[], None]) -> float:
    return min(timeit.repeat(call, number=2000, repeat=5)) / 2000 * 1e6


def test_counting_costs_a_request_next_to_nothing() -> None:
    metrics = Metrics(Fleet())

    def one_request() -> None:
        metrics.request("m", "n")
        metrics.tokens("m", "n", 10, 5, 4)
        metrics.spent("acct", "key", 10, 5)
        metrics.duration("m", "n", 0.2)
        metrics.first_token("m", "n", 0.42)
        metrics.tokens_per_second("m", "n", 33.0)

    assert cost_us(one_request) < 100  # about 4 where nothing else runs


def test_the_type_is_the_one_that_everyone_reads() -> None:
    assert CONTENT_TYPE.startswith("text/plain; version=0.0.4")
