"""Counters and gauges in Prometheus' text format 0.0.4, in a registry of their own.

What has a present value (load, devices, models) is read when somebody asks; what happened is
counted when it happens.
Source: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from helexa.protocol.control import BuildInfo, DeviceHealth, HostHealth, ModelLoad

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
UNKNOWN = "unknown"
OTHER = "other"
NO_STATUS = "none"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600)
TOKENS_PER_SECOND = (1, 2.5, 5, 10, 15, 20, 30, 40, 60, 80, 120, 200)

Surface = Literal["chat", "completions", "responses", "images"]
Outcome = Literal["stop", "length", "tool_calls", "rejected", "error", "cancelled"]

REJECTIONS = {
    "queue_full": "rejected_queue_full",
    "wait_timeout": "rejected_timeout",
    "per_principal": "rejected_per_principal",
    "anon_yield": "rejected_anon_yield",
    "kv_timeout": "rejected_kv_timeout",
    "kv_unservable": "rejected_kv_unservable",
}
LOAD_GAUGES = {
    "in_flight": "Requests that run.",
    "queue_depth": "Requests that wait.",
    "max_in_flight": "Seats.",
    "max_queue_depth": "Places in the queue.",
    "anon_in_flight": "Anonymous requests that run.",
    "anon_max_in_flight": "Seats for anonymous callers.",
    "kv_budget_mb": "MiB of KV cache for requests.",
    "kv_available_mb": "MiB of it that no request holds.",
    "tok_s_prefill": "Prompt tokens computed per second, lately.",
    "tok_s_decode": "Tokens generated per second and request, lately.",
}
DEVICE_GAUGES = {
    "vram_used_mb": "MiB of device memory in use.",
    "vram_free_mb": "MiB of device memory that are free.",
    "utilization_pct": "How busy the device is.",
    "temp_c": "The device's temperature.",
}


@dataclass(frozen=True, slots=True)
class ModelState:
    """One slot: its status, its memory, its prefix cache; ``load`` only while it is loaded.

    Of ``drafted`` tokens that were guessed ahead ``drafts_accepted`` were right. ``losses`` counts
    the processes that it has lost, by their cause.
    """

    id: str
    status: str
    vram_used_mb: int | None = None
    load: ModelLoad | None = None
    prefix_bytes: int = 0
    prefix_lookups: int = 0
    prefix_hits: int = 0
    drafted: int = 0
    drafts_accepted: int = 0
    losses: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Present:
    """The daemon at one moment."""

    uptime_s: float
    host: HostHealth
    devices: tuple[DeviceHealth, ...] = ()
    models: tuple[ModelState, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestEnd:
    """How an inference request ended; None for a time that did not come.

    ``code`` is set for those that failed or were refused, `internal` where the error has none.
    """

    model: str
    surface: Surface
    outcome: Outcome
    duration_s: float
    code: str | None = None
    queue_wait_s: float | None = None
    first_token_s: float | None = None
    tokens_per_s: float | None = None
    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0


class Metrics:
    """Everything that `/metrics` tells; ``present`` reads the state of the daemon."""

    def __init__(self, build: BuildInfo, present: Callable[[], Present]) -> None:
        self._present = present
        self._registry = CollectorRegistry()
        self._registry.register(PresentCollector(present))
        info = self._gauge("build_info", "The build.", "version", "git_sha")
        info.labels(build.package_version, build.git_sha).set(1)
        self._http = self._counter("http_requests", "HTTP requests.", "route", "method", "status")
        self._requests = self._counter(
            "requests", "Inference requests.", "model", "surface", "outcome"
        )
        self._errors = self._counter("request_errors", "Failed requests.", "model", "code")
        self._tokens = {
            name: self._counter(name, f"{text} tokens.", "model")
            for name, text in {
                "prompt_tokens": "Prompt",
                "cached_prompt_tokens": "Prompt tokens that were not computed: cached",
                "completion_tokens": "Generated",
                "reasoning_tokens": "Generated reasoning",
            }.items()
        }
        self._duration = self._times("request_duration_seconds", "From arrival to end.")
        self._queue_wait = self._times("queue_wait_seconds", "Wait for admission.")
        self._first_token = self._times("time_to_first_token_seconds", "From arrival.")
        self._speed = Histogram(
            "neuron_tokens_per_second",
            "Decode rate of a request.",
            ["model"],
            buckets=TOKENS_PER_SECOND,
            registry=self._registry,
        )
        self._loads = self._counter("model_loads", "Loads.", "model", "result")
        self._load_seconds = self._gauge("model_load_seconds", "The last load.", "model")

    def http_request(self, route: str, method: str, status: int | None) -> None:
        """Count an HTTP request; ``route`` is the pattern that fits the path, empty if none does.

        ``status`` None: no answer was begun, as the client had left.
        """
        known = method if method in METHODS else OTHER
        self._http.labels(route or UNKNOWN, known, NO_STATUS if status is None else status).inc()

    def request_ended(self, end: RequestEnd) -> None:
        """Count an inference request, its tokens and its times."""
        model = self._label(end.model)
        self._requests.labels(model, end.surface, end.outcome).inc()
        if end.code is not None:
            self._errors.labels(model, end.code).inc()
        for name, counter in self._tokens.items():
            counter.labels(model).inc(getattr(end, name))
        for histogram, value in (
            (self._duration, end.duration_s),
            (self._queue_wait, end.queue_wait_s),
            (self._first_token, end.first_token_s),
            (self._speed, end.tokens_per_s),
        ):
            if value is not None:
                histogram.labels(model).observe(value)

    def model_loaded(self, model: str, seconds: float, *, ok: bool = True) -> None:
        """Count a load, once its slot is there or it has failed."""
        label = self._label(model)
        self._loads.labels(label, "ok" if ok else "error").inc()
        if ok:
            self._load_seconds.labels(label).set(seconds)

    def forget(self, model: str) -> None:
        """Drop the series of a model that was unloaded."""
        for metric in (
            *(self._requests, self._errors, self._duration, self._queue_wait, self._first_token),
            *(self._speed, self._loads, self._load_seconds),
            *self._tokens.values(),
        ):
            metric.remove_by_labels({"model": model})

    def render(self) -> bytes:
        """The body of `/metrics`, of type `CONTENT_TYPE`."""
        return generate_latest(WithoutCreated(self._registry))

    def _label(self, model: str) -> str:
        """The id of a slot, else one label for all that clients may have made up."""
        return model if any(slot.id == model for slot in self._present().models) else UNKNOWN

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"neuron_{name}", text, labels, registry=self._registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"neuron_{name}", text, labels, registry=self._registry)

    def _times(self, name: str, text: str) -> Histogram:
        return Histogram(
            f"neuron_{name}", text, ["model"], buckets=SECONDS, registry=self._registry
        )


@dataclass(frozen=True, slots=True)
class WithoutCreated(Collector):
    """A registry without the samples that say when a series began: 0.0.4 does not know them."""

    registry: CollectorRegistry

    def collect(self) -> Iterator[Metric]:
        for metric in self.registry.collect():
            metric.samples = [s for s in metric.samples if not s.name.endswith("_created")]
            yield metric


@dataclass(slots=True)
class Series:
    """Gauges and counters in the making, by name."""

    families: dict[str, Metric] = field(default_factory=dict)

    def gauge(self, name: str, text: str, value: float, labels: Mapping[str, str]) -> None:
        self._add(GaugeMetricFamily, name, text, value, labels)

    def counter(self, name: str, text: str, value: float, labels: Mapping[str, str]) -> None:
        self._add(CounterMetricFamily, name, text, value, labels)

    def _add(
        self, kind: Any, name: str, text: str, value: float, labels: Mapping[str, str]
    ) -> None:
        if name not in self.families:
            self.families[name] = kind(f"neuron_{name}", text, labels=list(labels))
        family: Any = self.families[name]
        family.add_metric(list(labels.values()), value)


@dataclass(frozen=True, slots=True)
class PresentCollector(Collector):
    """The present state as metrics."""

    present: Callable[[], Present]

    def describe(self) -> Iterable[Metric]:
        """Nothing: what is there depends on the moment."""
        return ()

    def collect(self) -> Iterable[Metric]:
        present, series = self.present(), Series()
        series.gauge("uptime_seconds", "Since the start.", present.uptime_s, {})
        host = present.host
        series.gauge("host_memory_total_mb", "MiB of memory.", host.memory_total_mb, {})
        series.gauge("host_memory_available_mb", "MiB that are free.", host.memory_available_mb, {})
        for device in present.devices:
            for name, text in DEVICE_GAUGES.items():
                value = getattr(device, name)
                series.gauge(f"device_{name}", text, value, {"device": str(device.index)})
        for model in present.models:
            add_model(series, model)
        return series.families.values()


def add_model(series: Series, model: ModelState) -> None:
    """The series of one slot."""
    labels = {"model": model.id}
    series.gauge("model_status", "What a model is.", 1, {**labels, "status": model.status})
    if model.vram_used_mb is not None:
        text = "MiB of device memory it holds."
        series.gauge("model_vram_used_mb", text, model.vram_used_mb, labels)
    series.gauge("prefix_cache_bytes", "Bytes of cached prompts.", model.prefix_bytes, labels)
    text = "Prompts looked up in the cache."
    series.counter("prefix_cache_lookups", text, model.prefix_lookups, labels)
    text = "Prompts of which a part was cached."
    series.counter("prefix_cache_hits", text, model.prefix_hits, labels)
    text = "Tokens guessed ahead of the model."
    series.counter("draft_tokens", text, model.drafted, labels)
    text = "Tokens guessed ahead that were right."
    series.counter("draft_tokens_accepted", text, model.drafts_accepted, labels)
    for cause, count in model.losses.items():
        series.counter("model_recoveries", "Lost processes.", count, {**labels, "cause": cause})
    if model.load is None:
        return
    for name, text in LOAD_GAUGES.items():
        series.gauge(f"model_{name}", text, getattr(model.load, name), labels)
    for reason, name in REJECTIONS.items():
        value = getattr(model.load, name)
        text = "Requests that were not admitted."
        series.counter("model_rejections", text, value, {**labels, "reason": reason})
