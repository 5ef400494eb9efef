"""The layers of a configuration, and every problem by the name of what a person wrote."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from helexa.errors import ConfigError
from helexa.neuron.config import EngineSection, NeuronConfig, SourceConfig
from helexa.neuron.config_layers import Loaded, check_config, load_config
from helexa.neuron.config_reference import configuration_reference
from helexa.neuron.ids import ModelSpec
from helexa.neuron.runtime import VARIABLES, Runtime, read_runtime
from helexa.neuron.seating import Rules
from helexa.neuron.sources import Source, Sources

DOCS = Path(__file__).parents[2] / "docs"


def load(
    tmp_path: Path, text: str = "", environ: dict[str, str] | None = None, **options: Any
) -> Loaded:
    file = tmp_path / "neuron.toml"
    file.write_text(text)
    return load_config(file, environ=environ or {}, options=options)


def problems(tmp_path: Path, text: str, environ: dict[str, str] | None = None) -> list[str]:
    """The lines that a start would end with, without the part they share."""
    with pytest.raises(ConfigError) as refusal:
        load(tmp_path, text, environ)
    prefix = f"failed to load config from '{tmp_path / 'neuron.toml'}': "
    lines = str(refusal.value).splitlines()
    assert all(line.startswith(prefix) for line in lines)
    return [line.removeprefix(prefix) for line in lines]


def test_n001_empty_config(tmp_path: Path) -> None:
    config = load(tmp_path).config
    assert config == NeuronConfig()
    assert (config.port, config.host, config.harness_names) == (13131, "127.0.0.1", ("candle",))
    assert (config.default_models, config.shutdown_drain_secs) == ((), 100)
    http, engine = config.http, config.engine
    assert (http.max_body_mb, http.max_header_kb, http.max_connections) == (64, 64, 1024)
    assert (http.header_timeout_secs, http.body_timeout_secs) == (30, 60)
    assert (http.idle_timeout_secs, http.write_stall_secs) == (120, 120)
    cache, context, admission = engine.prefix_cache, engine.context_limit, engine.admission
    assert (cache.enabled, cache.budget_mb, cache.max_entries) == (True, 1024, 8)
    assert (context.target_prefill_latency_secs, context.bootstrap_prefill_tok_per_sec) == (
        120,
        800,
    )
    assert (context.activation_headroom_mb, context.min_free_floor_mb) == (2048, 1500)
    assert (context.output_reserve_tokens, context.enabled) == (8192, True)
    assert (admission.max_in_flight, admission.max_queue_depth, admission.max_wait_secs) == (
        8,
        8,
        30,
    )
    assert (admission.max_per_principal, admission.kv_max_wait_secs) == (2, 240)
    assert (engine.kv_context_tokens, engine.recovery_attempts) == (131072, 3)
    assert (engine.load_stall_secs, engine.resume_wait_secs) == (600, 120)
    assert (engine.image.text_encoder_device, engine.image.max_dim) == ("cpu", 2048)
    assert engine.image.text_encoder_resident


def test_n002_layers(tmp_path: Path) -> None:
    environ = {
        "NEURON_PORT": "2",
        "NEURON_HARNESS__CANDLE__ADMISSION__MAX_IN_FLIGHT": "8",
        "NEURON_ENGINE__ADMISSION__MAX_WAIT_SECS": "7",
    }
    text = "port = 1\n[harness.candle.admission]\nmax_in_flight = 3\nmax_queue_depth = 4\n"
    config = load(tmp_path, text, environ).config
    admission = config.engine.admission
    assert (config.port, admission.max_in_flight, admission.max_wait_secs) == (2, 8, 7)
    assert admission.max_queue_depth == 4
    assert load(tmp_path, text, environ, port=3, host=None).config.port == 3


def test_no_seats_are_read_as_one(tmp_path: Path) -> None:
    admission = load(
        tmp_path, "[harness.candle.admission]\nmax_in_flight = 0"
    ).config.engine.admission
    rules = Rules.of(admission)
    assert (rules.seats, rules.places, rules.anonymous_seats) == (1, 9, 1)


def test_both_names_of_the_engine_mean_the_same(tmp_path: Path) -> None:
    text = "[engine]\nhf_cache = '/c'\n[harness.candle.admission]\nmax_in_flight = 3\n"
    engine = load(tmp_path, text).config.engine
    assert (engine.hf_cache, engine.admission.max_in_flight) == ("/c", 3)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (
            '[harness.candle.admission]\nmax_wait_secs = "soon"',
            ['harness.candle.admission.max_wait_secs: expected a non-negative integer, got "soon"'],
        ),
        ("port = \n", ["line 1, column 8: Invalid value"]),
        ("port = 1\nhost = [1,\n", ["line 3, column 1: "]),
        (
            "port = -1\nhost = 3",
            [
                "port: expected a port from 0 to 65535, got -1",
                "host: expected a non-empty string, got 3",
            ],
        ),
        ("engine = 3", ["engine: expected a table, got 3"]),
        ("harness = 3", ["harness: expected a table, got 3"]),
        ("[engine.sources]\nx = 3", ["engine.sources.x: expected a table, got 3"]),
        ("http.max_body_mb = 0", ["http.max_body_mb: expected a positive integer, got 0"]),
        ("http.idle_timeout_secs = nan", ["http.idle_timeout_secs: expected a positive number"]),
        (f"http.idle_timeout_secs = 1{'0' * 400}", ["http.idle_timeout_secs: expected a positive"]),
        (f"http.max_body_mb = 0x1{'0' * 4000}", ["http.max_body_mb: expected a positive integer"]),
        (f"port = 1{'0' * 5000}", ["Exceeds the limit (4300 digits)"]),
        ("report_cpu_device = 1", ["report_cpu_device: expected true or false, got 1"]),
        ("harnesses = 'candle'", ['harnesses: expected a list of tables, got "candle"']),
        ("default_models = [{quant = 'q'}]", ["default_models[0].model_id: is missing"]),
        (
            "default_models = [{model_id = 'o/n', tensor_parallel = 0}]",
            ["default_models[0].tensor_parallel: expected a positive integer, got 0"],
        ),
        (
            "[engine]\nhf_cache = 'a'\n[harness.candle]\nhf_cache = 'b'",
            ["harness.candle.hf_cache: is also given as engine.hf_cache"],
        ),
        (
            "[engine.sources.x]\nendpoint = 'e'\npath = 'p'",
            ["engine.sources.x: needs either endpoint or path"],
        ),
        ("[engine.sources.x]", ["engine.sources.x: needs either endpoint or path"]),
        ("[engine.sources.'a:b']\npath = 'p'", ["engine.sources.a:b: the scheme 'a:b' contains"]),
        ("[engine.sources.'a/b']\npath = 'p'", ["engine.sources.a/b: the scheme 'a/b' contains"]),
        ("[engine.sources.'']\npath = 'p'", ["engine.sources.: a scheme cannot be empty"]),
        ("[engine.sources.builtin]\npath = 'p'", ["engine.sources.builtin: the scheme builtin is"]),
    ],
)
def test_n003_config_errors(tmp_path: Path, text: str, lines: list[str]) -> None:
    found = problems(tmp_path, text)
    assert len(found) == len(lines)
    assert all(line.startswith(start) for line, start in zip(found, lines, strict=True)), found


@pytest.mark.parametrize(
    ("environ", "lines"),
    [
        ({"NEURON_PORT": "soon"}, ['NEURON_PORT: expected a port from 0 to 65535, got "soon"']),
        ({"NEURON_PORT": ""}, ['NEURON_PORT: expected a port from 0 to 65535, got ""']),
        ({"NEURON_HTTP": "x"}, ['NEURON_HTTP: expected a table, got "x"']),
        (
            {"NEURON_HTTP": "{max_body_mb = 'x'}"},
            ['NEURON_HTTP.max_body_mb: expected a positive integer, got "x"'],
        ),
        (
            {"NEURON_ENGINE__HF_CACHE": "a", "NEURON_HARNESS__CANDLE__HF_CACHE": "b"},
            ["NEURON_HARNESS__CANDLE__HF_CACHE: is also given as NEURON_ENGINE__HF_CACHE"],
        ),
    ],
)
def test_n003_a_bad_variable_is_named(
    tmp_path: Path, environ: dict[str, str], lines: list[str]
) -> None:
    assert problems(tmp_path, "", environ) == lines


def test_n003_files_that_cannot_be_read(tmp_path: Path) -> None:
    missing = tmp_path / "missing.toml"
    with pytest.raises(ConfigError, match=r"missing\.toml': no such file"):
        load_config(missing, environ={})
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_config(tmp_path, environ={})
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b"port = 1\nhost = '\xff'\n")
    with pytest.raises(ConfigError, match="line 2, column 9: not UTF-8"):
        load_config(latin, environ={})


def test_n004_tolerated(tmp_path: Path) -> None:
    absent = load_config(environ={}, default_path=tmp_path / "absent.toml")
    assert (absent.config, absent.warnings) == (NeuronConfig(), ())
    environ = {"NEURON_BATCHING": "0", "NEURON_PORT__X": "1", "NEURON_SERVICE_HOST": "h"}
    text = """
        host = "127.0.0.1"
        colour = "red"
        harnesses = [{name = "other"}, {name = "candle"}, {name = "candle"}]
        [harness.candle]
        default_source = "zz"
        [harness.candle.admission]
        seats = 3
        [harness.other]
        x = 1
    """
    loaded = load(tmp_path, text, environ)
    assert loaded.config.harness_names == ("candle",)
    assert len(loaded.warnings) == 5
    for part in ("colour", "harness.candle.admission.seats", "harness.other", "'other'", "'zz'"):
        assert sum(part in warning for warning in loaded.warnings) == 1, part


@pytest.mark.parametrize(
    ("text", "options", "warns"),
    [("", {}, True), ("host = '0.0.0.0'", {}, False), ("", {"host": "::1"}, False)],
)
def test_a_file_that_does_not_say_where_to_listen(
    tmp_path: Path, text: str, options: dict[str, str], warns: bool
) -> None:
    found = load(tmp_path, text, **options).warnings
    said = f"{tmp_path / 'neuron.toml'} does not set host: listening on 127.0.0.1 only"
    assert found == ((said,) if warns else ())


def test_n005_sources() -> None:
    hub = Source("huggingface", endpoint="https://huggingface.co", auth_env="HF_TOKEN")
    assert Sources.of(EngineSection(), {}).by_scheme == {"huggingface": hub}
    cached = Sources.of(EngineSection(hf_cache="/c"), {}).by_scheme["huggingface"]
    assert (cached.cache_dir, cached.cache({"HF_HUB_CACHE": "/e"})) == ("/c", Path("/c"))
    own = SourceConfig(endpoint="https://mirror/", auth_env="MY_TOKEN")
    entry = EngineSection(hf_cache="/c", sources={"huggingface": own})
    assert Sources.of(entry, {"HF_ENDPOINT": "e", "MY_TOKEN": "t"}).by_scheme == {
        "huggingface": Source(
            "huggingface", endpoint="https://mirror", auth_env="MY_TOKEN", token="t"
        )
    }
    two = EngineSection(hf_cache="/c", sources={"helexa": SourceConfig(path="/models")})
    by_scheme = Sources.of(two, {}).by_scheme
    assert sorted(by_scheme) == ["helexa", "huggingface"]
    assert by_scheme["huggingface"].cache_dir == "/c"


def test_where_caches_are() -> None:
    hub, other = Source("huggingface"), Source("zz")
    environ = {"HF_HUB_CACHE": "", "HF_HOME": "/h"}
    assert hub.cache(environ) == Path("/h/hub")
    assert hub.cache({"HF_HUB_CACHE": "/c", **environ, "HF_HOME": ""}) == hub.cache({})
    assert hub.cache({"HF_HUB_CACHE": "/c"}) == Path("/c")
    assert other.cache({"HF_HUB_CACHE": "/c", "HF_HOME": "/h"}) == hub.cache({})
    endpoint = Sources.of(EngineSection(), {"HF_ENDPOINT": "http://e/"}).by_scheme["huggingface"]
    assert endpoint.endpoint == "http://e"


def test_n006_default_source(tmp_path: Path) -> None:
    assert Sources.of(load(tmp_path).config.engine, {}).default == "huggingface"
    text = "host = 'h'\n[engine]\ndefault_source = 'helexa'\nsources.helexa.path = '/m'"
    loaded = load(tmp_path, text)
    assert loaded.warnings == ()
    assert str(Sources.of(loaded.config.engine, {}).find("o/n")[0]) == "helexa:o/n"


def test_n007_check(tmp_path: Path) -> None:
    file = tmp_path / "neuron.toml"
    file.write_text("host = 'h'")
    good = check_config(file, environ={})
    assert (good.stdout, good.stderr, good.exit_status) == ("ok\n", "", 0)
    file.write_text("host = 3\nport = 'x'")
    bad = check_config(file, environ={})
    assert (bad.stdout, bad.exit_status, bad.stderr.count("\n")) == ("", 2, 2)


def test_a_variable_can_hold_what_a_file_can(tmp_path: Path) -> None:
    environ = {
        "NEURON_DEFAULT_MODELS": '[{model_id = "o/n", devices = [0, 1], tensor_parallel = 2}]',
        "NEURON_HOST": "127",
        "NEURON_TRUST_PRINCIPAL_HEADERS": "false",
        "NEURON_HTTP": "{max_body_mb = 3}",
        "NEURON_ENGINE__CONTEXT_LIMIT__TARGET_PREFILL_LATENCY_SECS": "1.5",
        "NEURON_ENGINE__SOURCES__ZZ__PATH": "12",
    }
    config = load(tmp_path, "http.max_header_kb = 5", environ).config
    spec = ModelSpec(model_id="o/n", devices=(0, 1), tensor_parallel=2)
    assert config.default_models == (spec,)
    assert (config.host, config.trust_principal_headers) == ("127", False)
    assert (config.http.max_body_mb, config.http.max_header_kb) == (3, 5)
    assert config.engine.context_limit.target_prefill_latency_secs == 1.5
    assert config.engine.sources["zz"].path == "12"


def test_runtime_variables() -> None:
    assert read_runtime({}) == Runtime()
    found = read_runtime(
        {
            "NEURON_MAX_PROMPT_TOKENS": "49152",
            "NEURON_MIN_FREE_VRAM_MB": "0",
            "NEURON_VISION_MIN_PIXELS": "1",
            "NEURON_VISION_MAX_PIXELS": "99999999",
            "NEURON_USE_CHAT_TEMPLATE": " Off ",
            "NEURON_TP_STEP_TIMEOUT_S": "2.5",
            "NEURON_DEBUG_POISON": "o/n",
            "NEURON_WARM_SPARE": "false",
            "NEURON_BATCHING": "0",
        }
    )
    assert (found.prompt_cap_tokens, found.context_clamp_tokens, found.floor_mb) == (
        49152,
        49152,
        0,
    )
    assert (found.image_pixels, found.use_chat_template) == ((1024, 589824), False)
    assert (found.step_timeout_s, found.poisoned_model) == (2.5, "o/n")
    assert (found.warm_spare, read_runtime({}).warm_spare) == (False, True)
    assert found.disabled == {"batching"}


def test_a_runtime_variable_that_makes_no_sense_is_ignored_aloud() -> None:
    found = read_runtime({"NEURON_MAX_PROMPT_TOKENS": "many", "NEURON_TP_STEP_TIMEOUT_S": "-1"})
    assert (found.prompt_cap_tokens, found.context_clamp_tokens) == (16384, None)
    assert found.step_timeout_s == 120
    assert [text.partition(":")[0] for text in found.warnings] == [
        "NEURON_MAX_PROMPT_TOKENS",
        "NEURON_TP_STEP_TIMEOUT_S",
    ]


def test_the_reference_is_what_the_program_knows() -> None:
    """To renew it: print `configuration_reference()` into the file."""
    assert (DOCS / "neuron-config.md").read_text("utf-8") == configuration_reference()
    assert len(fields(NeuronConfig)) == 10
    assert len({name for name, _, _ in VARIABLES}) == len(VARIABLES)
