"""`helexa serve` with settings of its own: addresses, keys, and what is wrong with them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from helexa.cli.serve import Ports
from helexa.gateway.config import GatewayConfig, Listen
from tests.cli.test_serve import HELLO, TIMEOUT_S, started, told
from tests.waiting import wait_until

KEYS = """
[gateway]
listen = "127.0.0.1:0"
metrics_listen = "127.0.0.1:0"
[entitlements]
require_auth = true
ledger = "sqlite:///{folder}/ledger.db"
[[entitlements.keys]]
key = "sk-good"
account_id = "good"
[[entitlements.keys]]
key = "sk-spent"
account_id = "spent"
hard_cap = 1
"""


def test_keys_and_addresses_of_a_configuration(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(KEYS.format(folder=tmp_path))
    with started("serve", "-c", str(path), "--neuron-port", "0") as process:
        server = told(process)
        assert process.stdout is not None
        printed = "".join(process.stdout.readline() for _ in range(3))
        environ = os.environ | {"HELEXA_API_KEY": "sk-good"}
        asked = subprocess.run(["sh", "-c", printed], env=environ, capture_output=True, check=True)
        assert json.loads(asked.stdout)["object"] == "chat.completion"
        for surface in ("/v1/chat/completions", "/v1/messages"):
            answers = [
                server.post(surface, key, max_tokens=2).status_code
                for key in ("", "sk-wrong", "sk-spent", "sk-good")
            ]
            assert answers == [401, 401, 429, 200]
        assert 'cortex_spend_tokens_total{account="good"' in httpx.get(server.metrics).text
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT_S) == 0
    assert (tmp_path / "ledger.db").stat().st_size > 0


def test_the_command_line_is_stronger_than_a_configuration() -> None:
    config = GatewayConfig(gateway=Listen("[::1]:80", "10.0.0.1:81"), neurons=())
    expected = {
        Ports(None, None, None, None): ("[::1]:80", "10.0.0.1:81", 13131),
        Ports(90, None, None, None): ("[::1]:90", "10.0.0.1:81", 13131),
        Ports(None, "0.0.0.0", 5, 6): ("0.0.0.0:80", "127.0.0.1:6", 5),
        Ports(0, "::", None, None): ("[::]:0", "127.0.0.1:0", 0),
        Ports(0, "h", 7, 8): ("h:0", "127.0.0.1:8", 7),
    }
    for ports, (listen, metrics, neuron) in expected.items():
        found = ports.listening(config).gateway
        assert (found.listen, found.metrics_listen, ports.neuron) == (listen, metrics, neuron)
    silent = replace(config, gateway=Listen("[::1]:80", ""))
    assert Ports(0, None, None, None).listening(silent).gateway.metrics_listen == ""


@pytest.mark.parametrize("option", ["--port", "--neuron-port", "--metrics-port"])
def test_a_port_in_use(option: str) -> None:
    """It is told before a model is loaded, and with the option that chooses another."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with started("serve", "--port", "0", option, str(port)) as process:
            out, errors = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, out) == (1, "")
    error, hint = errors.splitlines()
    assert f"127.0.0.1:{port}: address already in use" in error
    assert hint.startswith(f"hint: choose another with {option}")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[gateway\n", "line 1"),
        ("[gateway]\nlisten = 5\n", "gateway.listen: "),
        ('[entitlements]\nledger = "mysql://x"\n', "entitlements.ledger: "),
        ('models_config = "{broken}"\n', "models_config: {broken}: line 1"),
        (KEYS.replace("{folder}", "/nowhere/at/all"), "entitlements.ledger: cannot open "),
        (None, "no such file"),
    ],
    ids=["syntax", "type", "scheme", "catalogue", "ledger", "absent"],
)
def test_a_bad_configuration_is_named(tmp_path: Path, text: str | None, says: str) -> None:
    path, broken = tmp_path / "gateway.toml", tmp_path / "models.toml"
    broken.write_text("[models\n")
    says = says.replace("{broken}", str(broken))
    if text is not None:
        path.write_text(text.replace("{broken}", str(broken)))
    with started("serve", "-p", "0", "-c", str(path)) as process:
        out, errors = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, out) == (2, "")
    assert errors.startswith(f"failed to load config from '{path}': {says}"), errors
    assert "Traceback" not in errors


@pytest.fixture
def silent_hub() -> Iterator[socket.socket]:
    """One that takes connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as hub:
        hub.settimeout(TIMEOUT_S)
        yield hub


def test_it_can_be_ended_while_it_loads(silent_hub: socket.socket, tmp_path: Path) -> None:
    """Who asks meanwhile is told to come back; and the hub need not answer for it to end."""
    with socket.create_server(("127.0.0.1", 0)) as picked:
        port = picked.getsockname()[1]
    hub = f"http://127.0.0.1:{silent_hub.getsockname()[1]}"
    ports = ("--port", str(port), "--neuron-port", "0", "--metrics-port", "0")
    environ = {"HF_ENDPOINT": hub, "HF_HUB_CACHE": str(tmp_path)}
    with started("serve", "org/slow", *ports, **environ) as process:
        connection, _ = silent_hub.accept()
        url = f"http://127.0.0.1:{port}"
        with connection, httpx.Client(base_url=url, timeout=TIMEOUT_S) as http:

            def answer() -> httpx.Response:
                body = {"model": "org/slow", "messages": HELLO}
                return http.post("/v1/chat/completions", json=body)

            wait_until(lambda: answer().status_code == 503, TIMEOUT_S)
            refused = answer()
            assert "is still loading" in refused.json()["error"]["message"]
            assert refused.headers["retry-after"] == "10"
            process.send_signal(signal.SIGINT)
            out, errors = process.communicate(timeout=20)  # the hub would be given 30 s
    assert (process.returncode, out) == (0, "")
    assert "Traceback" not in errors
