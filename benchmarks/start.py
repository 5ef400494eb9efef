"""How long helexa takes to be there: an import, the help, a gateway that listens and answers.

    python -m benchmarks.start                         # a minute

Each is a new process, again and again in turns; the least of each counts, since whatever else this
machine does can only add to it, and the median is told beside it. Bytecode is at hand, as it is
once a package has been installed.
"""

from __future__ import annotations

import contextlib
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.readings import arguments, positive, publish

HERE = "127.0.0.1"
ASK = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"
GIVE_UP_S = 60.0


@dataclass(frozen=True, slots=True)
class Reading:
    """Until what was waited for, until an answer, processor time of it all; resident memory."""

    wall_ms: float
    answer_ms: float | None
    cpu_ms: float
    resident_mb: float | None = None


def command(*words: str) -> Callable[[Mapping[str, str]], Reading]:
    """A Python that runs to its end."""

    def measure(environ: Mapping[str, str]) -> Reading:
        began = time.perf_counter()
        process = _python(*words, environ=environ)
        cpu_ms = _cpu_ms(process)
        return Reading((time.perf_counter() - began) * 1e3, None, cpu_ms)

    return measure


def gateway(environ: Mapping[str, str]) -> Reading:
    """A gateway of one neuron that is not there, until it has answered one question."""
    with socket.create_server((HERE, 0)) as free:
        port = free.getsockname()[1]
    words = ["gateway", "-c", os.devnull, "--neuron", f"a=http://{HERE}:9", "--metrics-listen", ""]
    began = time.perf_counter()
    process = _python("-m", "helexa", *words, "--listen", f"{HERE}:{port}", environ=environ)
    with _connected(port, began) as client:
        listening = time.perf_counter()
        client.sendall(ASK)
        client.recv(4096)
        answered = time.perf_counter()
    resident_mb = _resident_mb(process.pid)
    process.kill()
    cpu_ms = _cpu_ms(process)
    return Reading((listening - began) * 1e3, (answered - began) * 1e3, cpu_ms, resident_mb)


WHAT: Mapping[str, Callable[[Mapping[str, str]], Reading]] = {
    "python": command("-c", ""),
    "import helexa": command("-c", "import helexa"),
    "helexa --help": command("-m", "helexa", "--help"),
    "helexa gateway": gateway,
}


def _python(*words: str, environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
    quiet = subprocess.DEVNULL
    return subprocess.Popen([sys.executable, *words], env=environ, stdout=quiet, stderr=quiet)


def _cpu_ms(process: subprocess.Popen[bytes]) -> float:
    """Wait for its end; the processor time it took."""
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return (used.ru_utime + used.ru_stime) * 1e3


def _connected(port: int, began: float) -> socket.socket:
    while time.perf_counter() - began < GIVE_UP_S:
        with contextlib.suppress(ConnectionRefusedError):
            return socket.create_connection((HERE, port), GIVE_UP_S)
        time.sleep(0.001)
    raise TimeoutError("the gateway does not listen")


def _resident_mb(pid: int) -> float | None:
    try:
        status = Path(f"/proc/{pid}/status").read_text("utf-8")
    except OSError:  # not Linux
        return None
    (line,) = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) / 1024


@dataclass(frozen=True, slots=True)
class Start:
    """The least of each of its ``rounds``, and the median of the first."""

    what: str
    wall_ms: float
    median_ms: float
    answer_ms: float | None
    cpu_ms: float
    resident_mb: float | None
    rounds: list[dict[str, float | None]] = field(default_factory=list)


def summary(what: str, readings: list[Reading]) -> Start:
    """A row of the table."""
    walls = [reading.wall_ms for reading in readings]
    return Start(
        what,
        min(walls),
        statistics.median(walls),
        min((r.answer_ms for r in readings if r.answer_ms is not None), default=None),
        min(reading.cpu_ms for reading in readings),
        min((r.resident_mb for r in readings if r.resident_mb is not None), default=None),
        [asdict(reading) for reading in readings],
    )


def measure(rounds: int) -> list[Start]:
    """All of `WHAT`, in turns; the first turn, which writes the bytecode, is not counted."""
    found: dict[str, list[Reading]] = {name: [] for name in WHAT}
    with TemporaryDirectory() as bytecode:
        environ = {**os.environ, "PYTHONPYCACHEPREFIX": bytecode, "PYTHONDONTWRITEBYTECODE": ""}
        for turn in range(rounds + 1):
            for name, take in WHAT.items():
                reading = take(environ)
                if turn:
                    found[name].append(reading)
    return [summary(name, readings) for name, readings in found.items()]


def main() -> None:
    """Print the least of each."""
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=positive, default=20)
    options = parser.parse_args()

    def shown(value: float | None) -> str:
        return "" if value is None else f"{value:.0f}"

    publish(
        options.json,
        {"rounds": options.rounds},
        measure(options.rounds),
        {
            "": lambda o: o.what,
            "ms": lambda o: shown(o.wall_ms),
            "median": lambda o: shown(o.median_ms),
            "answers after, ms": lambda o: shown(o.answer_ms),
            "CPU, ms": lambda o: shown(o.cpu_ms),
            "resident, MiB": lambda o: shown(o.resident_mb),
        },
    )


if __name__ == "__main__":
    main()
