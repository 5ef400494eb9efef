"""What Prometheus reads, name by name."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from helexa.neuron.admission import Admission
from helexa.neuron.config import AdmissionConfig
from helexa.neuron.metrics import CONTENT_TYPE, Metrics, ModelState, Present, RequestEnd
from helexa.protocol.control import BuildInfo, DeviceHealth, HostHealth

DOCS = Path(__file__).parents[2] / "docs"
HOST = HostHealth(memory_total_mb=1000, memory_available_mb=600)
BUILD = BuildInfo(package_version="1.2", git_sha="0123456")


class Daemon:
    """A daemon whose present is what a test makes it."""

    def __init__(self, *models: str) -> None:
        self.doors = {
            model: Admission(model, AdmissionConfig(), kv_budget_mb=500) for model in models
        }
        self.metrics = Metrics(BUILD, self.present)

    def present(self) -> Present:
        device = DeviceHealth(index=0, vram_used_mb=3, vram_free_mb=4, utilization_pct=5, temp_c=6)
        models = [
            ModelState(
                id=model,
                status="loaded",
                vram_used_mb=77,
                load=door.report(tok_s_prefill=1.5),
                prefix_bytes=8,
                prefix_lookups=9,
                prefix_hits=2,
                drafted=5,
                drafts_accepted=4,
                losses={"deadline": 1},
            )
            for model, door in self.doors.items()
        ]
        return Present(12.5, HOST, (device,), tuple(models))

    def read(self) -> dict[str, float]:
        """Series, as they are written, to values."""
        text = self.metrics.render().decode()
        lines = (line for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def answered(model: str = "m") -> RequestEnd:
    return RequestEnd(
        model=model,
        surface="chat",
        outcome="stop",
        duration_s=1.5,
        queue_wait_s=0.2,
        first_token_s=0.4,
        tokens_per_s=25,
        prompt_tokens=100,
        cached_prompt_tokens=60,
        completion_tokens=30,
        reasoning_tokens=10,
    )


REFUSED = RequestEnd(
    model="m", surface="completions", outcome="rejected", duration_s=0.01, code="invalid_value"
)


WANTED = {
    'build_info{git_sha="0123456",version="1.2"}': 1,
    "uptime_seconds": 12.5,
    "host_memory_total_mb": 1000,
    "host_memory_available_mb": 600,
    'http_requests_total{method="POST",route="/v1/chat/completions",status="200"}': 1,
    'requests_total{model="m",outcome="stop",surface="chat"}': 1,
    'requests_total{model="m",outcome="rejected",surface="completions"}': 1,
    'request_errors_total{code="invalid_value",model="m"}': 1,
    'prompt_tokens_total{model="m"}': 100,
    'cached_prompt_tokens_total{model="m"}': 60,
    'completion_tokens_total{model="m"}': 30,
    'reasoning_tokens_total{model="m"}': 10,
    'request_duration_seconds_bucket{le="1.0",model="m"}': 1,
    'request_duration_seconds_bucket{le="2.0",model="m"}': 2,
    'request_duration_seconds_count{model="m"}': 2,
    'queue_wait_seconds_bucket{le="0.25",model="m"}': 1,
    'time_to_first_token_seconds_bucket{le="0.5",model="m"}': 1,
    'tokens_per_second_bucket{le="20.0",model="m"}': 0,
    'tokens_per_second_bucket{le="30.0",model="m"}': 1,
    'model_in_flight{model="m"}': 0,
    'model_queue_depth{model="m"}': 0,
    'model_max_in_flight{model="m"}': 8,
    'model_max_queue_depth{model="m"}': 8,
    'model_anon_in_flight{model="m"}': 0,
    'model_anon_max_in_flight{model="m"}': 7,
    'model_kv_budget_mb{model="m"}': 500,
    'model_kv_available_mb{model="m"}': 500,
    'model_tok_s_prefill{model="m"}': 1.5,
    'model_tok_s_decode{model="m"}': 0,
    'model_vram_used_mb{model="m"}': 77,
    **{
        f'model_rejections_total{{model="m",reason="{reason}"}}': 0
        for reason in (
            *("queue_full", "wait_timeout", "per_principal"),
            *("anon_yield", "kv_timeout", "kv_unservable"),
        )
    },
    'model_status{model="m",status="loaded"}': 1,
    'model_loads_total{model="m",result="ok"}': 1,
    'model_load_seconds{model="m"}': 3.5,
    'model_recoveries_total{cause="deadline",model="m"}': 1,
    'prefix_cache_bytes{model="m"}': 8,
    'prefix_cache_lookups_total{model="m"}': 9,
    'prefix_cache_hits_total{model="m"}': 2,
    'draft_tokens_total{model="m"}': 5,
    'draft_tokens_accepted_total{model="m"}': 4,
    'device_vram_used_mb{device="0"}': 3,
    'device_vram_free_mb{device="0"}': 4,
    'device_utilization_pct{device="0"}': 5,
    'device_temp_c{device="0"}': 6,
}


def test_n142_after_a_request_and_a_rejection() -> None:
    daemon = Daemon("m")
    daemon.metrics.request_ended(answered())
    daemon.metrics.request_ended(REFUSED)
    daemon.metrics.http_request("/v1/chat/completions", "POST", 200)
    daemon.metrics.model_loaded("m", 3.5)
    found = daemon.read()
    for name, value in WANTED.items():
        assert found.get(f"neuron_{name}") == value, name
    families = {name.partition("{")[0] for name in found}
    plain = {name for name in families if not name.endswith(("_bucket", "_sum", "_count"))}
    assert plain <= {f"neuron_{name}".partition("{")[0] for name in WANTED}


def test_the_page_about_serving_names_every_metric() -> None:
    """Each with its labels, and no other; histograms without the endings of their series."""
    wanted: dict[str, str] = {}
    for series in WANTED:
        name, _, labels = series.partition("{")
        name = re.sub("_(bucket|count)$", "", name)
        wanted[f"neuron_{name}"] = ", ".join(
            label for label in re.findall(r"(\w+)=", labels) if label != "le"
        )
    text = (DOCS / "serving.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(neuron_\w+)` \| \w+ \| ([\w, ]*?) ?\|", text, re.MULTILINE)
    told = {name: sorted(labels.split(", ")) for name, labels in rows}
    assert told == {name: sorted(labels.split(", ")) for name, labels in wanted.items()}


def test_n142_ids_that_are_no_slots_share_a_label() -> None:
    daemon = Daemon("m")
    for model in ("made-up-1", "made-up-2"):
        daemon.metrics.request_ended(answered(model))
    daemon.metrics.model_loaded("made-up-3", 1.0, ok=False)
    found = daemon.read()
    assert found['neuron_requests_total{model="unknown",outcome="stop",surface="chat"}'] == 2
    assert found['neuron_model_loads_total{model="unknown",result="error"}'] == 1
    assert not any("made-up" in name for name in found)


def test_the_series_of_an_unloaded_model_disappear() -> None:
    daemon = Daemon("m", "other")
    for model in ("m", "other"):
        daemon.metrics.request_ended(answered(model))
        daemon.metrics.model_loaded(model, 1.0)
    del daemon.doors["m"]
    daemon.metrics.forget("m")
    found = daemon.read()
    assert not any('model="m"' in name for name in found)
    assert any('model="other"' in name for name in found)


def test_the_format_is_the_one_that_everyone_reads() -> None:
    daemon = Daemon("m")
    daemon.metrics.request_ended(answered())
    text = daemon.metrics.render().decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert families["neuron_requests"].type == "counter"
    assert families["neuron_request_duration_seconds"].type == "histogram"
    assert families["neuron_model_in_flight"].type == "gauge"
    assert "_created" not in text
    assert CONTENT_TYPE.startswith("text/plain; version=0.0.4")


def test_two_daemons_in_one_process_count_apart() -> None:
    one, two = Daemon("m"), Daemon("m")
    one.metrics.request_ended(answered())
    name = 'neuron_requests_total{model="m",outcome="stop",surface="chat"}'
    assert (one.read()[name], two.read().get(name)) == (1, None)


def test_a_model_that_recovers_has_a_status_and_no_load() -> None:
    present = Present(0, HOST, (), (ModelState(id="m", status="recovering"),))
    found = Metrics(BUILD, lambda: present).render().decode()
    assert 'neuron_model_status{model="m",status="recovering"} 1.0' in found
    assert "neuron_model_in_flight" not in found
    assert "vram_used" not in found


def test_what_clients_make_up_is_no_label() -> None:
    daemon = Daemon("m")
    daemon.metrics.http_request("", "BREW", 404)
    daemon.metrics.http_request("/health", "GET", None)
    found = daemon.read()
    assert found['neuron_http_requests_total{method="other",route="unknown",status="404"}'] == 1
    assert found['neuron_http_requests_total{method="GET",route="/health",status="none"}'] == 1
