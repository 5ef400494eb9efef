"""Gateways as processes of their own, in front of whatever listens."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.waiting import wait_until

START_S = 60.0
TIMEOUT_S = 50.0
STARTED = re.compile(r'listen(?:=|": ")(http[^\s"]+)"?,? "?metrics_listen(?:=|": ")(http[^\s"]+)')
FAST_POLLS = "[poller]\ninterval_secs = 0.25\ntimeout_secs = 2\n"


@dataclass(slots=True, eq=False)
class GatewayProcess:
    """A running gateway; ``log`` is where its standard error goes."""

    process: subprocess.Popen[bytes]
    log: Path
    url: str
    metrics_url: str
    http: httpx.Client

    def words(self) -> str:
        """All that it has logged."""
        return self.log.read_text("utf-8")

    def health(self) -> dict[str, Any]:
        found: dict[str, Any] = self.http.get("/health").json()
        return found

    def wait_for_nodes(self, healthy: int) -> None:
        """Return once so many neurons answer."""
        wait_until(lambda: self.health()["nodes"]["healthy"] == healthy, TIMEOUT_S)

    def where(self, model: str) -> dict[str, str]:
        """The status of a model by node."""
        listed = self.http.get("/v1/models").json()["data"]
        return {
            place["node"]: place["status"]
            for entry in listed
            if entry["id"] == model
            for place in entry["locations"]
        }

    def chat(self, text: str = "Hello!", *, key: str = "", **body: Any) -> httpx.Response:
        """One chat, whole."""
        headers = {"authorization": f"Bearer {key}"} if key else {}
        asked = {"messages": [{"role": "user", "content": text}], "max_tokens": 16, **body}
        return self.http.post("/v1/chat/completions", json=asked, headers=headers)

    def metric(self, name: str, **labels: str) -> float:
        """A value; 0 if there is none."""
        text = httpx.get(self.metrics_url, timeout=TIMEOUT_S).text
        total = 0.0
        for line in text.splitlines():
            found = re.fullmatch(rf"{name}\{{(.*)\}} (\S+)", line)
            if found and all(f'{key}="{value}"' in found[1] for key, value in labels.items()):
                total += float(found[2])
        return total

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal; the exit status."""
        self.process.send_signal(number)
        return self.process.wait(TIMEOUT_S)


@contextmanager
def gateway(
    folder: Path,
    neurons: Mapping[str, str],
    config: str = "",
    environ: Mapping[str, str] | None = None,
) -> Iterator[GatewayProcess]:
    """A gateway in front of these URLs by name; killed at the end if it still runs."""
    folder.mkdir(exist_ok=True)
    path, log = folder / "gateway.toml", folder / "gateway.log"
    entries = [
        f"[[neurons]]\nname = {json.dumps(name)}\nendpoint = {json.dumps(url)}\n"
        for name, url in neurons.items()
    ]
    empty = "neurons = []\n" if not entries else ""
    listen = '[gateway]\nlisten = "127.0.0.1:0"\nmetrics_listen = "127.0.0.1:0"\n'
    path.write_text(empty + config + listen + "".join(entries))
    command = [sys.executable, "-m", "helexa", "gateway", "-c", str(path)]
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            command, stderr=stderr, env={**os.environ, "HOME": str(folder), **(environ or {})}
        )
    try:
        wait_until(
            lambda: "gateway started" in log.read_text("utf-8") or process.poll() is not None,
            START_S,
        )
        found = STARTED.search(log.read_text("utf-8"))
        assert found is not None, log.read_text("utf-8")
        with httpx.Client(base_url=found[1], timeout=TIMEOUT_S, trust_env=False) as http:
            yield GatewayProcess(process, log, found[1], f"{found[2]}/metrics", http)
    finally:
        process.kill()
        process.wait(TIMEOUT_S)
