"""The layers of a gateway's configuration, and every problem by the name of what was written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from helexa.errors import ConfigError
from helexa.gateway.config import GatewayConfig, KeyConfig, NeuronEntry, WindowConfig
from helexa.gateway.config_layers import load_config
from helexa.gateway.config_reference import configuration_reference
from tests.gateway.config_files import NONE, URL, keys, load, problems

DOCS = Path(__file__).parents[2] / "docs"
MISSING = "neurons: is missing; name them with [[neurons]] or --neuron, or write `neurons = []`"
NODE = '[[neurons]]\nname = "a"\nendpoint = "http://h"\n'
ROLLING = 'window = {kind = "rolling", seconds = 60}'


def test_what_holds_where_nothing_is_said(tmp_path: Path) -> None:
    loaded = load(tmp_path)
    config = loaded.config
    assert (config, loaded.warnings) == (GatewayConfig(), ())
    listen, eviction, poller = config.gateway, config.eviction, config.poller
    assert (listen.listen, listen.metrics_listen) == ("127.0.0.1:31313", "127.0.0.1:31314")
    assert (listen.drain_timeout_secs, config.models_config) == (120, None)
    assert (eviction.strategy, eviction.defrag_after_cycles) == ("lru", 0)
    assert (poller.interval_secs, poller.timeout_secs) == (10, 5)
    assert (poller.failure_threshold, poller.capability_retry_secs) == (3, 600)
    proxy, cold, limits = config.proxy, config.cold_load, config.limits
    assert (proxy.connect_timeout_secs, proxy.first_byte_timeout_secs) == (5, 300)
    assert (proxy.non_stream_timeout_secs, proxy.idle_timeout_secs) == (1800, 300)
    assert (proxy.write_timeout_secs, proxy.forward_authorization, proxy.retry) == (
        300,
        False,
        True,
    )
    assert (cold.timeout_secs, cold.wait_secs, cold.backoff_secs) == (1800, 240, 30)
    assert (limits.max_body_bytes, limits.max_buffered_bytes) == (2**26, 2**30)
    assert limits.max_connections == 4096
    entitlements, upstream = config.entitlements, config.upstream
    assert (entitlements.require_auth, entitlements.keys) == (False, ())
    assert entitlements.ledger is None
    assert (upstream.enabled, upstream.url, upstream.bearer) == (False, "", "")
    assert (upstream.timeout_secs, upstream.served_usage_report_interval_secs) == (5, 60)


REFERENCE = """
models_config = "/etc/cortex/models.toml"

[gateway]
listen = "0.0.0.0:31313"
metrics_listen = "0.0.0.0:31314"
colour = "red"

[eviction]
strategy = "priority"
defrag_after_cycles = 20

[[neurons]]
name = "gpu-a"
endpoint = "http://gpu-a.internal:13131"

[[neurons]]
name = "gpu-b"
endpoint = "https://gpu-b.internal/"
bearer = "b"

[entitlements]
require_auth = true
[[entitlements.keys]]
key = "sk-1"
account_id = "acct"
hard_cap = 5_000_000
window = { kind = "rolling", seconds = 3600 }
"""


def test_g001_reference_config(tmp_path: Path) -> None:
    loaded = load(tmp_path, REFERENCE)
    assert loaded.warnings == (f"unknown key gateway.colour in {tmp_path / 'gateway.toml'}",)
    config = loaded.config
    assert config.neurons == (
        NeuronEntry("gpu-a", "http://gpu-a.internal:13131"),
        NeuronEntry("gpu-b", "https://gpu-b.internal", "b"),
    )
    assert (config.eviction.strategy, config.eviction.defrag_after_cycles) == ("priority", 20)
    window = WindowConfig("rolling", 3600)
    [key] = config.entitlements.keys
    assert key == KeyConfig("sk-1", "acct", hard_cap=5_000_000, window=window)
    assert key.ledger_id == "acct"
    assert replace(key, key_id="laptop").ledger_id == "laptop"


def test_g002_env(tmp_path: Path) -> None:
    text = NONE + 'gateway.listen = "127.0.0.1:1"\neviction.strategy = "priority"'
    environ = {
        "CORTEX_GATEWAY__LISTEN": "0.0.0.0:31313",
        "Cortex_Upstream__bearer": "12345",
        "CORTEX_MODELS_CONFIG": "true",
        "CORTEX_EVICTION__DEFRAG_AFTER_CYCLES": "5",
    }
    config = load(tmp_path, text, environ).config
    assert (config.gateway.listen, config.upstream.bearer) == ("0.0.0.0:31313", "12345")
    assert (config.models_config, config.eviction.defrag_after_cycles) == ("true", 5)
    assert config.eviction.strategy == "priority"
    options = {"listen": "[::1]:2", "metrics_listen": "", "models": "m.toml", "neuron": ()}
    config = load(tmp_path, text, environ, **options).config
    assert (config.gateway.listen, config.gateway.metrics_listen) == ("[::1]:2", "")
    assert (config.models_config, config.neurons) == ("m.toml", ())


def test_g002_a_variable_can_hold_tables(tmp_path: Path) -> None:
    neurons = '[{name = "a", endpoint = "http://h:13131"},\n {name = "b", endpoint = "http://i"}]\n'
    environ = {
        "CORTEX_NEURONS": neurons,
        "CORTEX_UPSTREAM": '{enabled = true, url = "http://u", nick = "x"}',
        "CORTEX_PORT": "tcp://10.0.0.1:80",
        "CORTEX_NODES": "[]",
    }
    loaded = load(tmp_path, '[[neurons]]\nname = "c"\nendpoint = "http://j"', environ)
    assert [neuron.name for neuron in loaded.config.neurons] == ["a", "b"]
    assert loaded.config.upstream.url == "http://u"
    assert loaded.warnings == ("unknown key CORTEX_UPSTREAM.nick",)


def test_neurons_of_the_command_line_replace_the_others(tmp_path: Path) -> None:
    text = '[[neurons]]\nname = "c"\nendpoint = "http://j"'
    config = load(tmp_path, text, neuron=("a=http://h:1/", "b=http://i/x")).config
    assert config.neurons == (NeuronEntry("a", "http://h:1"), NeuronEntry("b", "http://i/x"))
    assert load(tmp_path, "", neuron=["a=http://h"]).config.neurons[0].name == "a"
    assert problems(
        tmp_path, text, neuron=("http://h", "=http://h", "a=h:1", "b=http://h?a=b")
    ) == [
        "--neuron: expected NAME=URL, got a word without `=`",
        '--neuron[0].name: expected a non-empty string, got ""',
        f"--neuron[1].endpoint: expected {URL}, got another string",
        f"--neuron[2].endpoint: expected {URL}, got another string",
    ]


def test_the_default_file_may_be_missing_but_neurons_may_not(tmp_path: Path) -> None:
    absent = tmp_path / "absent.toml"
    with pytest.raises(ConfigError) as refusal:
        load_config(environ={}, default_path=absent)
    assert refusal.value.problems == (MISSING,)
    loaded = load_config(environ={"CORTEX_NEURONS": "[]"}, default_path=absent)
    assert (loaded.config, loaded.path, loaded.warnings) == (GatewayConfig(), absent, ())
    with pytest.raises(ConfigError, match=r"absent\.toml': no such file$"):
        load_config(absent, environ={"CORTEX_NEURONS": "[]"})


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", [MISSING]),
        (NODE.replace("neurons", "nodes"), ["neurons: is missing, and nodes is not read: use [["]),
        (NODE + NODE, ["neurons[1].name: 'a' is also the name of neurons[0]"]),
        (
            "neurons = [{}, {}]",
            [f"neurons[{i}].{key}: is missing" for i in (0, 1) for key in ("name", "endpoint")],
        ),
        ("neurons = ['a']", ["neurons[0]: expected a table, got another string"]),
        (NONE + 'gateway.listen = "x"', ["gateway.listen: expected host:port, such as"]),
        (NONE + "gateway.metrics_listen = 1", ["gateway.metrics_listen: expected host:port"]),
        (NONE + "gateway.drain_timeout_secs = -1", ["gateway.drain_timeout_secs: expected a non-"]),
        (NONE + "proxy.retry = 'yes'", ['proxy.retry: expected true or false, got "yes"']),
        (NONE + "poller = 3", ["poller: expected a table, got 3"]),
        (NONE + "eviction.strategy = 'fifo'", ['eviction.strategy: expected "lru" or "priority"']),
        (NONE + "entitlements.ledger = 'mysql://'", ["entitlements.ledger: expected memory, sql"]),
        (NONE + "upstream.enabled = true", ["upstream.url: is missing, but upstream.enabled is"]),
        (NONE + "upstream = {enabled = true, url = 'u'}", [f"upstream.url: expected {URL}"]),
        ("neurons = \n", ["line 1, column 11: Invalid value"]),
        ("neurons = [\n", ["line 2, column 1: "]),
        ("a." * 3000 + "b = 1", ["nested too deeply"]),
    ],
)
def test_g003_fail_fast(tmp_path: Path, text: str, lines: list[str]) -> None:
    found = problems(tmp_path, text)
    assert len(found) == len(lines)
    assert all(line.startswith(start) for line, start in zip(found, lines, strict=True)), found


@pytest.mark.parametrize(
    ("rows", "lines"),
    [
        (["key = 'k'"], ["account_id: is missing"]),
        (["account_id = 'a'"], ["key: is missing"]),
        (["key = 'k'\naccount_id = 'a b'"], ["account_id: expected 1 to 128 visible ASCII"]),
        (["key = 'k'\naccount_id = 'é'"], ["account_id: expected 1 to 128 visible ASCII"]),
        (["key = 'k'\naccount_id = ''"], ["account_id: expected 1 to 128 visible ASCII"]),
        ([f"key = 'k'\naccount_id = '{'x' * 129}'"], ["account_id: expected 1 to 128 visible"]),
        (["key = 'k'\naccount_id = 'a'\nkey_id = 5"], ["key_id: expected 1 to 128 visible ASCII"]),
        (["key = 'k'\naccount_id = 'a'\nhard_cap = -1"], ["hard_cap: expected a non-negative int"]),
        (["key = ' k'\naccount_id = 'a'"], ["key: expected printable ASCII characters, no space"]),
        (["key = ''\naccount_id = 'a'"], ["key: expected printable ASCII characters, no space"]),
        (
            ["key = 'k'\naccount_id = 'a'\nwindow = {kind = 'rolling', seconds = 0}"],
            ["window.seconds: expected a positive integer, got 0"],
        ),
        (
            ["key = 'k'\naccount_id = 'a'\nwindow = {kind = 'sliding'}"],
            ['window.kind: expected "balance" or "rolling", got "sliding"'],
        ),
        (
            ["key = 'k'\naccount_id = 'a'\nwindow = {kind = 'rolling'}"],
            ["window.seconds: is missing, but the window is rolling"],
        ),
        (
            ["key = 'k'\naccount_id = 'a'\nwindow = {seconds = 60}"],
            ['window.kind: is missing; with seconds it is "rolling"'],
        ),
        (["key = 'k'\naccount_id = 'a'\nwindow = 60"], ["window: expected a table, got 60"]),
    ],
)
def test_g003_keys(tmp_path: Path, rows: list[str], lines: list[str]) -> None:
    found = problems(tmp_path, keys(*rows))
    assert len(found) == len(lines)
    for line, start in zip(found, lines, strict=True):
        assert line.startswith(f"entitlements.keys[0].{start}")


def test_g003_one_key_two_principals(tmp_path: Path) -> None:
    text = keys(
        "key = 'k'\naccount_id = 'a'",
        "key = 'k'\naccount_id = 'a'\nkey_id = 'a'",
        "key = 'k'\naccount_id = 'a'\nkey_id = 'b'",
        "key = 'k'\naccount_id = 'b'",
    )
    other = "is also the key of entitlements.keys[0], which has another account_id or key_id"
    assert problems(tmp_path, text) == [f"entitlements.keys[{i}].key: {other}" for i in (2, 3)]


def test_keys_of_one_name_share_a_budget_and_the_last_cap_holds(tmp_path: Path) -> None:
    row = "account_id = 'a'\nkey_id = 'b'\n"
    same = [f"key = '{i}'\n{row}hard_cap = 5" for i in range(3)]
    assert load(tmp_path, keys(*same)).warnings == ()
    said = (
        "keys of the key_id 'b' differ in hard_cap or window: those of entitlements.keys[{}] hold"
    )
    found = load(tmp_path, keys(f"key = 'x'\n{row}", *same, f"key = 'y'\n{row}hard_cap = 6"))
    assert found.warnings == (said.format(4),)
    found = load(tmp_path, keys(same[0], f"{same[1]}\n{ROLLING}"))
    assert found.warnings == (said.format(1),)


def test_one_variable_given_twice(tmp_path: Path) -> None:
    environ = {"CORTEX_UPSTREAM__BEARER": "a", "cortex_upstream__bearer": "b"}
    assert problems(tmp_path, NONE, environ) == [
        "cortex_upstream__bearer: is also given as CORTEX_UPSTREAM__BEARER"
    ]


def test_the_reference_is_what_the_program_knows() -> None:
    """To renew it: print `configuration_reference()` into the file."""
    assert (DOCS / "gateway-config.md").read_text("utf-8") == configuration_reference()
