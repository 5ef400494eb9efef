"""What a model occupies in each format, beside its file: written, loaded, asked for a token.

    python -m benchmarks.format_memory                       # Qwen3 0.6B shape, some minutes
    python -m benchmarks.format_memory --compile             # plain and in blocks, compiled, too
    python -m benchmarks.format_memory --shape small --json -

Each is loaded by a process of its own; what that held before is left out. What is resident counts
whole, pages of mapped files too: weights that need no other layout are such pages, and those of
others are to be given back once they are read. How many of them are there at the peak depends on
what is read last, and the system can take them back; what is allocated is told beside it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import helexa
from benchmarks.readings import arguments, publish
from benchmarks.shapes import SHAPES, make_checkpoint
from benchmarks.stored import SAFETENSORS, write_stored
from helexa.quantising import quantise_to_file

GGUF = ("f16", "q8_0", "q6_k", "q5_k", "q4_k", "q4_0")
TINY = Path(helexa.__file__).parent / "builtin" / "tiny"
MIB = 2**20
Option = str | bool | Sequence[str]
LOAD = """
import json, sys, threading, time
from helexa.engine.loading import load_model

def mib(field):
    with open("/proc/self/status") as status:
        (line,) = (line for line in status if line.startswith(field))
    return int(line.split()[1]) / 1024

options = json.loads(sys.argv[2])
same = {name: options[name] for name in ("compile", "disabled") if name in options}
tiny = load_model("tiny", device="cpu", **same)
tiny.compute_logits([1, 2])  # whatever is imported late
before = mib("VmRSS")
most = own = mib("RssAnon")
done = threading.Event()

def watch():
    global most
    while not done.wait(0.002):
        most = max(most, mib("RssAnon"))

watching = threading.Thread(target=watch, daemon=True)
watching.start()
began = time.perf_counter()
model = load_model(sys.argv[1], device="cpu", **options)
took, loaded, peak = time.perf_counter() - began, mib("VmRSS"), mib("VmHWM")
done.set()
watching.join()
model.compute_logits([1, 2, 3])
sizes = loaded - before, mib("VmRSS") - before, peak - before, most - own
print(json.dumps([took, model.nbytes / 2**20, *sizes]))
"""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What loading took, in seconds and MiB: all but ``weights_mib`` more than before.

    ``weights_mib`` is what the model counts, ``loaded_mib`` what the process holds once it is
    loaded, ``resident_mib`` once it was used, and ``peak_mib`` the most while it was loaded;
    ``allocated_mib`` is the most without pages of files, looked at every two milliseconds.
    """

    load_s: float
    weights_mib: float
    loaded_mib: float
    resident_mib: float
    peak_mib: float
    allocated_mib: float


@dataclass(frozen=True, slots=True)
class Occupied:
    """Sizes in MiB and times in seconds; see `Loaded`. ``quantise_s`` where helexa wrote it."""

    format: str
    file_mib: float
    weights_mib: float
    resident_mib: float
    peak_mib: float
    allocated_mib: float
    quantise_s: float | None
    load_s: float


def load_apart(path: Path, **options: Option) -> Loaded:
    """Load a model in a process of its own; Linux only. ``options`` are those of `load_model`."""
    run = subprocess.run(
        [sys.executable, "-c", LOAD, str(path), json.dumps(options)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    return Loaded(*json.loads(run.stdout))


def occupied(
    format: str, path: Path, quantise_s: float | None = None, **options: Option
) -> Occupied:
    """A checkpoint in a format, loaded."""
    files = [path] if path.is_file() else path.glob("*.safetensors")
    size = sum(file.stat().st_size for file in files) / MIB
    found = load_apart(path, **options)
    return Occupied(
        format,
        size,
        found.weights_mib,
        found.resident_mib,
        found.peak_mib,
        found.allocated_mib,
        quantise_s,
        found.load_s,
    )


def measure(folder: Path, work: Path, *, compiled: bool) -> Iterator[Occupied]:
    """All formats of a checkpoint; those that can be ``compiled``, both ways."""
    yield occupied("bf16, safetensors", folder)
    if compiled:
        yield occupied("bf16, safetensors, compiled", folder, compile=True)
    yield occupied("q4_k, as it is loaded", folder, quant="q4_k")
    for format in GGUF:
        written = quantise_to_file(folder, work / f"{format}.gguf", format)
        yield occupied(f"{format}, GGUF", written.path, written.seconds)
        if compiled:
            yield occupied(f"{format}, GGUF, compiled", written.path, compile=True)
        written.path.unlink()
    for format in SAFETENSORS:
        path = write_stored(folder, format, work, noise=True)
        yield occupied(format, path)
        shutil.rmtree(path)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="0.6b")
    parser.add_argument("--compile", action="store_true", help="load with compiled kernels, too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        folder = make_checkpoint(options.shape, work)
        shutil.copy(TINY / "tokenizer.json", folder)
        found = list(measure(folder, work, compiled=options.compile))
    publish(
        options.json,
        {"shape": options.shape, "compiled": options.compile},
        found,
        {
            "format": lambda o: o.format,
            "file, MiB": lambda o: f"{o.file_mib:.0f}",
            "weights": lambda o: f"{o.weights_mib:.0f}",
            "resident": lambda o: f"{o.resident_mib:.0f}",
            "of the file": lambda o: f"{o.resident_mib / o.file_mib:.2f} ×",
            "peak": lambda o: f"{o.peak_mib:.0f}",
            "of the weights": lambda o: f"{o.peak_mib / o.weights_mib:.2f} ×",
            "without pages of files": lambda o: f"{o.allocated_mib / o.weights_mib:.2f} ×",
            "written, s": lambda o: "" if o.quantise_s is None else f"{o.quantise_s:.0f}",
            "loaded, s": lambda o: f"{o.load_s:.1f}",
        },
    )


if __name__ == "__main__":
    main()
