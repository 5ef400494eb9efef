"""Addresses, URLs, ledgers; and secrets, which nothing that a gateway says has in it."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helexa.gateway.config_kinds import host_and_port
from tests.gateway.config_files import NONE, URL, keys, load, problems

SECRET = "sk-never-to-be-seen"


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1:0", "0.0.0.0:65535", "localhost:31313", "[::1]:1", "[fe80::1%eth0]:5", "a-b.c:80"],
)
def test_addresses_to_listen_on(tmp_path: Path, address: str) -> None:
    assert load(tmp_path, listen=address).config.gateway.listen == address
    found = host_and_port(address)
    assert found is not None
    host, port = found
    assert address in (f"{host}:{port}", f"[{host}]:{port}")


@pytest.mark.parametrize(
    "address",
    [
        *("", "x", ":80", "h:", "h:x", "h:-1", "h:65536", "h:000080", "h:٣", "::1:80", "[::1]"),
        *("[h]:1", "[::1]x:1", "http://h:1", "h h:1", "h/:1", "u@h:1", " h:1", "h:1 "),
    ],
)
def test_addresses_that_nobody_can_listen_on(tmp_path: Path, address: str) -> None:
    [line] = problems(tmp_path, NONE, listen=address)
    assert line.startswith("--listen: expected host:port, such as 127.0.0.1:31313")


@settings(max_examples=100, deadline=None)
@given(st.text() | st.from_regex(r"[\[\]:0-9a-f.]{0,20}:\d{0,6}"))
def test_whatever_is_an_address_has_a_host_and_a_port(text: str) -> None:
    found = host_and_port(text)
    if found is not None:
        host, port = found
        assert host
        assert 0 <= port <= 65535
        assert host_and_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}") == found


@pytest.mark.parametrize(
    "url",
    [
        *("gpu-a:13131", "//h", "http://", "http:///x", "ftp://h", "h", "", "http://h:x", "5"),
        *(
            "http://h:0",
            "http://h:65536",
            "http://u:p@h",
            "http://h?x",
            "http://h/#x",
            "http://a b",
        ),
        *("http://é", "http://[::1", "http://h\n", "http:h", r"http://h\x"),
    ],
)
def test_g003_endpoints_that_lead_nowhere(tmp_path: Path, url: str) -> None:
    [line] = problems(tmp_path, "", neuron=[f"a={url}"])
    assert line.startswith(f"--neuron[0].endpoint: expected {URL}, got a")


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("http://h", "http://h"),
        ("HTTPS://H:1//", "HTTPS://H:1"),
        ("http://[::1]:9/a/b/", "http://[::1]:9/a/b"),
    ],
)
def test_endpoints_lose_their_trailing_slash(tmp_path: Path, url: str, kept: str) -> None:
    assert load(tmp_path, "", neuron=[f"a={url}"]).config.neurons[0].endpoint == kept
    environ = {"CORTEX_UPSTREAM__URL": url, "CORTEX_UPSTREAM__ENABLED": "true"}
    assert load(tmp_path, NONE, environ).config.upstream.url == kept


@pytest.mark.parametrize("place", ["memory", "sqlite", "sqlite:///var/lib/l.db"])
def test_ledgers(tmp_path: Path, place: str) -> None:
    config = load(tmp_path, NONE, {"CORTEX_ENTITLEMENTS__LEDGER": place}).config
    assert config.entitlements.ledger == place


@pytest.mark.parametrize(
    "place", ["", "mysql://h", "sqlite://l.db", "sqlite:///", "sqlite:///a/", "postgres://h", "x"]
)
def test_g003_ledgers_that_there_are_not(tmp_path: Path, place: str) -> None:
    [line] = problems(tmp_path, NONE, {"CORTEX_ENTITLEMENTS__LEDGER": place})
    assert line.startswith(
        "CORTEX_ENTITLEMENTS__LEDGER: expected memory, sqlite, sqlite:///path or"
    )


def test_g003_a_missing_driver_is_named_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = NONE + "entitlements.ledger = 'postgresql://h/db'"
    monkeypatch.setitem(sys.modules, "psycopg", None)  # type: ignore[arg-type]  # blocks it
    assert problems(tmp_path, text) == [
        "entitlements.ledger: its driver, psycopg, is not installed: pip install 'helexa[postgres]'"
    ]
    there = ModuleType("psycopg")
    there.__spec__ = ModuleSpec("psycopg", None)
    monkeypatch.setitem(sys.modules, "psycopg", there)
    assert load(tmp_path, text).config.entitlements.ledger == "postgresql://h/db"


@pytest.mark.parametrize(
    ("text", "environ"),
    [
        (f"entitlements.keys = ['{SECRET}']", {}),
        (f"entitlements.keys = '{SECRET}'", {}),
        (f"entitlements = ['{SECRET}']", {}),
        (f"entitlements.keys = {{k = '{SECRET}'}}", {}),
        (f"upstream = '{SECRET}'", {}),
        (f"upstream.bearer = ['{SECRET}']", {}),
        (f'upstream.bearer = "{SECRET}\\n"', {}),
        (f"entitlements.keys = [{{key = ' {SECRET}', account_id = 'a'}}]", {}),
        (f"entitlements.ledger = 'mysql://u:{SECRET}@h'", {}),
        (f"upstream.url = 'http://u:{SECRET}@h'", {}),
        (f"upstream.url = {{url = 'http://u:{SECRET}@h'}}", {}),
        ("", {"CORTEX_NEURONS": f"[{{bearer = {{x = '{SECRET}'}}, name = 'a', endpoint = 'h'}}]"}),
        ("", {"CORTEX_ENTITLEMENTS__KEYS": f"[{{key = '{SECRET}'"}),
        ("", {"CORTEX_ENTITLEMENTS": SECRET}),
        (
            "\n".join(
                f"[[entitlements.keys]]\nkey = '{SECRET}'\naccount_id = '{a}'" for a in ("a", "b")
            ),
            {},
        ),
    ],
)
def test_no_problem_shows_a_secret(tmp_path: Path, text: str, environ: dict[str, str]) -> None:
    for line in problems(tmp_path, NONE + text, environ):
        assert SECRET not in line


def test_no_secret_is_in_what_a_configuration_looks_like(tmp_path: Path) -> None:
    text = keys(f"key = '{SECRET}'\naccount_id = 'acct'")
    environ = {
        "CORTEX_UPSTREAM__BEARER": SECRET,
        "CORTEX_NEURONS": f"[{{name = 'a', endpoint = 'http://h', bearer = '{SECRET}'}}]",
    }
    config = load(tmp_path, text, environ).config
    assert config.neurons[0].bearer == config.upstream.bearer == SECRET
    assert "acct" in repr(config)
    assert SECRET not in repr(config)
