"""Who passes chats on: each a command that listens on a port, in front of the mock."""

from __future__ import annotations

import compileall
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import helexa
from benchmarks.gateway_load import KEY
from benchmarks.gateway_mock import MODEL

START_S = 180.0
PEERS = Path(__file__).parent / "peers"
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a contender is to listen, where the mock is, and a folder of its own."""

    port: int
    upstream: str
    folder: Path
    python: str


@dataclass(frozen=True, slots=True)
class Contender:
    """``command`` makes what it needs in its folder; ``absent`` says why it cannot run here.

    Of a ``peer`` that shows only when it is started, too.
    """

    name: str
    command: Callable[[Place], list[str]]
    absent: Callable[[str], str] = lambda python: ""
    environment: Mapping[str, str] = field(default_factory=dict)
    peer: bool = True


class DidNotStart(Exception):
    """A contender ended, or took too long, before it listened; ``said`` is what it printed."""

    def __init__(self, said: str) -> None:
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        last = lines[-1][:200] if lines else "it said nothing"
        super().__init__(f"it did not come to listen: {last}")
        self.said = said


GATEWAY_TOML = """\
[gateway]
listen = "127.0.0.1:{port}"
metrics_listen = ""

[[neurons]]
name = "mock"
endpoint = "{upstream}"

[entitlements]
require_auth = true
ledger = "sqlite:///{folder}/ledger.db"

[[entitlements.keys]]
key = "{key}"
account_id = "benchmark"
hard_cap = 1000000000000
"""

LITELLM_YAML = """\
model_list:
  - model_name: {model}
    litellm_params: {{model: openai/{model}, api_base: "{upstream}/v1", api_key: none}}
litellm_settings: {{telemetry: false, drop_params: true}}
"""

NGINX_CONF = """\
daemon off; master_process off; worker_processes 1;
pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  keepalive_requests 100000000;
  upstream mock {{ server {host}; keepalive 64; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://mock; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""


def _gateway(place: Place) -> list[str]:
    config = place.folder / "gateway.toml"
    told = {"port": place.port, "upstream": place.upstream, "folder": place.folder, "key": KEY}
    config.write_text(GATEWAY_TOML.format(**told), encoding="utf-8")
    models = place.folder / "models.toml"
    models.write_text("", encoding="utf-8")
    command = [sys.executable, "-m", "helexa", "gateway", "--config", str(config)]
    return [*command, "--models", str(models), "--log-level", "warning"]


def _bare(place: Place) -> list[str]:
    return [sys.executable, "-m", "benchmarks.http_relay", place.upstream, str(place.port)]


def _starlette(place: Place) -> list[str]:
    script = PEERS / "starlette_relay.py"
    return [place.python, str(script), place.upstream, str(place.port)]


def _litellm(place: Place) -> list[str]:
    config = place.folder / "litellm.yaml"
    config.write_text(LITELLM_YAML.format(model=MODEL, upstream=place.upstream), encoding="utf-8")
    program = str(Path(place.python).with_name("litellm"))
    listen = ["--host", "127.0.0.1", "--port", str(place.port), "--num_workers", "1"]
    return [program, "--config", str(config), *listen, "--telemetry", "False"]


def _nginx(place: Place) -> list[str]:
    config = place.folder / "nginx.conf"
    host = place.upstream.removeprefix("http://")
    text = NGINX_CONF.format(folder=place.folder, host=host, port=place.port)
    config.write_text(text, encoding="utf-8")
    return [_nginx_program() or "nginx", "-c", str(config), "-p", str(place.folder)]


def _nginx_program() -> str | None:
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")


def _needs(module: str) -> Callable[[str], str]:
    def absent(python: str) -> str:
        if shutil.which(python) is None:
            return f"there is no {python}"
        found = subprocess.run([python, "-c", f"import {module}"], capture_output=True, check=False)
        return "" if found.returncode == 0 else f"{python} has no {module.replace(', ', ', no ')}"

    return absent


def _litellm_absent(python: str) -> str:
    program = Path(python).with_name("litellm")
    return "" if program.exists() else f"there is no {program}"


CONTENDERS = (
    Contender("helexa gateway", _gateway, peer=False),
    Contender("helexa.http", _bare, peer=False),
    Contender("Starlette", _starlette, _needs("starlette, uvicorn, httpx")),
    Contender(
        *("LiteLLM", _litellm, _litellm_absent),
        {
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it asks the internet
            "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
        },
    ),
    Contender("nginx", _nginx, lambda python: "" if _nginx_program() else "it is not installed"),
)


@dataclass(frozen=True, slots=True)
class Running:
    """A contender that listens; times in seconds since its process was started."""

    url: str
    pid: int
    listening_s: float

    def cpu_s(self) -> float | None:
        """CPU time of it and of its children so far; None where there is no /proc."""
        times = [_stat(pid) for pid in _family(self.pid)]
        known = [(int(stat[11]) + int(stat[12])) / _TICKS for stat in times if stat]
        return sum(known) if known else None

    def resident_mb(self) -> float | None:
        """Resident memory of it and of its children, in MB; None where there is no /proc."""
        page = os.sysconf("SC_PAGE_SIZE")
        pages = [int(stat[21]) for pid in _family(self.pid) if (stat := _stat(pid))]
        return sum(pages) * page / 1e6 if pages else None


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the name; empty if there are none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return []


def _family(pid: int) -> list[int]:
    found = [pid]
    for folder in Path("/proc").glob("[0-9]*"):
        stat = _stat(int(folder.name))
        if stat and int(stat[1]) in found:
            found.append(int(folder.name))
    return found


@contextmanager
def running(
    contender: Contender, upstream: str, folder: Path, python: str, core: int | None
) -> Iterator[Running]:
    """Start a contender on a core of its own; ended with the block. Raises DidNotStart."""
    place = Place(_free_port(), upstream, folder, python)
    command = contender.command(place)
    with (folder / "output.log").open("wb") as output:
        began = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            env=_environment(contender),
            preexec_fn=partial(_stay_on, core),
        )
        try:
            _wait_for(place.port, process, folder)
            listening_s = time.perf_counter() - began
            yield Running(f"http://127.0.0.1:{place.port}", process.pid, listening_s)
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _environment(contender: Contender) -> dict[str, str]:
    """Ours, in which Python may keep the bytecode that it reads at the next start."""
    environment = os.environ | contender.environment
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return environment


def compile_ours() -> None:
    """Write the bytecode of this tree, as an installer does for what it installs."""
    for module in (helexa.__file__, __file__):
        compileall.compile_dir(Path(module).parent, quiet=2)


def _stay_on(core: int | None) -> None:
    if core is not None:
        os.sched_setaffinity(0, {core})


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for(port: int, process: subprocess.Popen[bytes], folder: Path) -> None:
    until = time.perf_counter() + START_S
    while time.perf_counter() < until and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.001)
    raise DidNotStart((folder / "output.log").read_text("utf-8", "replace"))
