"""What Prometheus reads of a gateway, in its text format 0.0.4.

What happened is counted when it happens, in plain dictionaries: several of these calls belong to
each request, on one event loop. What is (loads, devices, nodes) is read from the fleet when
somebody asks, so that its series go with what they tell of. The text is written here, as the
common client library takes longer for it than a gateway should stand still.
Source: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Literal

from helexa.gateway.fleet import Fleet, Node
from helexa.protocol.control import ModelLoad

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1200)
FIRST_TOKEN_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 30, 60, 120)
TOKENS_PER_SECOND = (1, 2.5, 5, 10, 15, 20, 30, 40, 60, 80, 120, 200)
PLACE = ("model", "node")
PAYER = ("account", "key")

RetryReason = Literal["429", "503", "connect", "endpoint", "not_found"]
Kind = Literal["counter", "gauge", "histogram"]

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
    "tok_s_prefill": "Prompt tokens computed per second, lately.",
    "tok_s_decode": "Tokens generated per second and request, lately.",
}
SEAT_GAUGES = {
    "max_in_flight": "Seats.",
    "max_queue_depth": "Places in the queue.",
}
ANON_GAUGES = {
    "anon_in_flight": "Anonymous requests that run.",
    "anon_max_in_flight": "Seats for anonymous callers.",
}
DEVICE_GAUGES = {
    "vram_used_mb": "MiB of device memory in use.",
    "vram_free_mb": "MiB of device memory that are free.",
    "utilization_pct": "How busy the device is.",
    "temp_c": "The device's temperature.",
}


@dataclass(frozen=True, slots=True)
class Counter:
    """Numbers that only grow, by the values of their labels."""

    name: str
    text: str
    labels: tuple[str, ...] = PLACE
    values: dict[tuple[str, ...], int] = field(default_factory=dict)

    def add(self, key: tuple[str, ...], amount: int = 1) -> None:
        """Count; an amount of 0 makes the series known."""
        self.values[key] = self.values.get(key, 0) + amount

    def lines(self) -> Iterator[str]:
        """The family's text; nothing without a series."""
        if self.values:
            yield head(self.name, self.text, "counter")
        for key, value in self.values.items():
            yield f"{self.name}{{{labelled(self.labels, key)}}} {value}\n"


@dataclass(slots=True)
class Observations:
    """One series of a histogram: how many in each bucket (the last is beyond all bounds)."""

    counts: list[int]
    sum: float = 0.0


@dataclass(frozen=True, slots=True)
class Histogram:
    """How values are spread over buckets, by model and node."""

    name: str
    text: str
    bounds: tuple[float, ...] = SECONDS
    series: dict[tuple[str, ...], Observations] = field(default_factory=dict)

    def observe(self, key: tuple[str, ...], value: float) -> None:
        """Count a value in the first bucket whose bound it does not exceed."""
        found = self.series.get(key)
        if found is None:
            found = self.series[key] = Observations([0] * (len(self.bounds) + 1))
        found.counts[bisect_left(self.bounds, value)] += 1
        found.sum += value

    def lines(self) -> Iterator[str]:
        """The family's text; nothing without a series."""
        if not self.series:
            return
        yield head(self.name, self.text, "histogram")
        bounds = [*map(number, self.bounds), "+Inf"]
        for key, found in self.series.items():
            labels = labelled(PLACE, key)
            total = 0
            for bound, total in zip(bounds, accumulate(found.counts), strict=True):
                yield f'{self.name}_bucket{{{labels},le="{bound}"}} {total}\n'
            yield f"{self.name}_sum{{{labels}}} {number(found.sum)}\n"
            yield f"{self.name}_count{{{labels}}} {total}\n"


class Metrics:
    """Everything that is counted, and the fleet as it stands.

    ``model`` is always a concrete id, ``node`` a node's name, times are in seconds.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._requests = Counter("cortex_requests_total", "Requests past validation.")
        self._errors = Counter("cortex_request_errors_total", "Requests that a node failed.")
        self._cold_starts = Counter("cortex_cold_starts_total", "Requests that began with a load.")
        self._prompt = Counter("cortex_prompt_tokens_total", "Prompt tokens.")
        self._completion = Counter("cortex_completion_tokens_total", "Generated tokens.")
        self._cached = Counter("cortex_cached_prompt_tokens_total", "Prompt tokens of a cache.")
        self._images = Counter("cortex_images_requests_total", "Requests for images.")
        self._generated = Counter("cortex_images_generated_total", "Requests that gave images.")
        self._evictions = Counter("cortex_evictions_total", "Models unloaded by the gateway.")
        self._retries = Counter(
            "cortex_retries_total", "Second attempts, by who failed.", (*PLACE, "reason")
        )
        self._spend = Counter("cortex_spend_tokens_total", "Tokens charged.", PAYER)
        self._spend_prompt = Counter(
            "cortex_spend_prompt_tokens_total", "Prompt tokens charged.", PAYER
        )
        self._spend_completion = Counter(
            "cortex_spend_completion_tokens_total", "Generated tokens charged.", PAYER
        )
        self._spend_images = Counter(
            "cortex_spend_image_milliunits_total", "Thousandths of image units charged.", PAYER
        )
        self._duration = Histogram("cortex_request_duration_seconds", "Until a node's answer.")
        self._images_duration = Histogram(
            "cortex_images_generation_seconds", "Until a node's answer with images."
        )
        self._first_token = Histogram(
            "cortex_time_to_first_token_seconds", "Until the first content.", FIRST_TOKEN_SECONDS
        )
        self._speed = Histogram(
            "cortex_tokens_per_second", "Generated tokens per second.", TOKENS_PER_SECOND
        )

    def request(self, model: str, node: str) -> None:
        """A request that was found valid; ``node`` is its first target."""
        self._requests.add((model, node))

    def request_error(self, model: str, node: str) -> None:
        """A request that a node failed: in transport, with 5xx, or inside its stream."""
        self._errors.add((model, node))

    def cold_start(self, model: str, node: str) -> None:
        """A request for which the model was loaded."""
        self._cold_starts.add((model, node))

    def tokens(self, model: str, node: str, prompt: int, completion: int, cached: int) -> None:
        """The usage of a successful answer."""
        key = (model, node)
        if prompt > 0:
            self._prompt.add(key, prompt)
        if completion > 0:
            self._completion.add(key, completion)
        if cached > 0:
            self._cached.add(key, cached)

    def images_request(self, model: str, node: str) -> None:
        """A request for images, beside `request`."""
        self._images.add((model, node))

    def images_generated(self, model: str, node: str) -> None:
        """A request for images that was answered with some."""
        self._generated.add((model, node))

    def evicted(self, model: str, node: str) -> None:
        """A model that the gateway unloaded."""
        self._evictions.add((model, node))

    def retried(self, model: str, node: str, reason: RetryReason) -> None:
        """A second attempt; ``node`` is the one that failed the first."""
        self._retries.add((model, node, reason))

    def spent(self, account: str, key: str, prompt: int, completion: int) -> None:
        """Tokens charged; none at all make the series known, too."""
        payer = (account, key)
        self._spend.add(payer, prompt + completion)
        self._spend_prompt.add(payer, prompt)
        self._spend_completion.add(payer, completion)

    def spent_images(self, account: str, key: str, milliunits: int) -> None:
        """Thousandths of image units charged."""
        self._spend_images.add((account, key), milliunits)

    def duration(self, model: str, node: str, seconds: float) -> None:
        """From dispatch to the head of any HTTP answer."""
        self._duration.observe((model, node), seconds)

    def images_duration(self, model: str, node: str, seconds: float) -> None:
        """The same, of a request for images."""
        self._images_duration.observe((model, node), seconds)

    def first_token(self, model: str, node: str, seconds: float) -> None:
        """From dispatch to the first content of a successful answer."""
        self._first_token.observe((model, node), seconds)

    def tokens_per_second(self, model: str, node: str, rate: float) -> None:
        """How fast a successful answer was generated."""
        self._speed.observe((model, node), rate)

    def text(self) -> bytes:
        """The whole text, of type `CONTENT_TYPE`."""
        counted = (value for name, value in vars(self).items() if name != "_fleet")
        lines = [line for family in counted for line in family.lines()]
        return "".join([*lines, *fleet_lines(self._fleet)]).encode("utf-8", "replace")


@dataclass(slots=True)
class Present:
    """Families in the making, of what can be read now."""

    families: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: Kind, name: str, text: str, labels: str, value: float) -> None:
        """One series; ``labels`` as `labelled` writes them."""
        lines = self.families.get(name)
        if lines is None:
            lines = self.families[name] = [head(name, text, kind)]
        lines.append(f"{name}{{{labels}}} {number(value)}\n")


def fleet_lines(fleet: Fleet) -> list[str]:
    """Which nodes are up, and of those the loads of their models and their devices."""
    present = Present()
    for node in fleet.nodes.values():
        labels = labelled(("node",), (node.name,))
        present.add("gauge", "cortex_node_up", "Whether it answers.", labels, int(node.healthy))
        if node.healthy:
            _add_node(present, node)
    return [line for lines in present.families.values() for line in lines]


def _add_node(present: Present, node: Node) -> None:
    for model, load in node.load.items():
        if model in node.entries:
            _add_load(present, (model, node.name), load)
    for index, device in node.device_health.items():
        labels = labelled(("node", "device"), (node.name, str(index)))
        for name, text in DEVICE_GAUGES.items():
            value = getattr(device, name)
            present.add("gauge", f"cortex_device_{name}", text, labels, value)


def _add_load(present: Present, key: tuple[str, str], load: ModelLoad) -> None:
    gauges = dict(LOAD_GAUGES)
    if load.max_in_flight > 0:
        gauges |= SEAT_GAUGES
    if load.anon_max_in_flight > 0:
        gauges |= ANON_GAUGES
    place = labelled(PLACE, key)
    for name, text in gauges.items():
        present.add("gauge", f"cortex_model_{name}", text, place, getattr(load, name))
    for reason, name in REJECTIONS.items():
        family, text = "cortex_model_rejections_total", "Requests that a node did not admit."
        labels = f'{place},reason="{reason}"'
        present.add("counter", family, text, labels, getattr(load, name))


def head(name: str, text: str, kind: Kind) -> str:
    """The two lines before a family's series."""
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n"


def labelled(names: Sequence[str], values: Iterable[str]) -> str:
    """Labels as they stand in the braces."""
    return ",".join(f'{name}="{escaped(value)}"' for name, value in zip(names, values, strict=True))


def escaped(value: str) -> str:
    """A label's value, which may be anything a node calls a model."""
    if "\\" in value or '"' in value or "\n" in value:
        return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
    return value


def number(value: float) -> str:
    """A value; a whole one without a point."""
    if isinstance(value, int):
        return str(value)
    if math.isfinite(value):
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
