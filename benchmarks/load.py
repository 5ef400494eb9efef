"""How long a model takes to load, beside reading its files with `cat`, from disk and from memory.

    python -m benchmarks.load                          # Qwen3 0.6B shape, some minutes
    python -m benchmarks.load --shape small --rounds 1

Everyone loads in a process of its own that has imported all it needs. "Cold" files have been
written to disk and dropped from the page cache, which is checked (`resident`); "warm" ones have
just been read. The turn of each is followed by `cat` of the same file in the same state. A model is
loaded when it can be asked, and all of its weights have been read when it has given a first token.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import json
import mmap
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.gguf_export import FORMATS, export_gguf
from benchmarks.readings import arguments, new_folder, positive, publish, spread
from benchmarks.shapes import SHAPES, make_checkpoint

PLAIN = "16 bit"
STATES = ("cold", "warm")
MIB = 2**20
HELEXA = """
from helexa.engine.loading import load_model
tiny = load_model("tiny", device="cpu")
tiny.compute_logits([1, 2])  # whatever is imported late
def load(path):
    return load_model(path, device="cpu"{options})
def ask(model):
    model.compute_logits([5])
"""
TRANSFORMERS = """
import torch, transformers
from transformers.models.qwen3 import modeling_qwen3
def load(path):
    kind = transformers.AutoModelForCausalLM
    return kind.from_pretrained(path, dtype=torch.bfloat16).eval()
def ask(model):
    with torch.inference_mode():
        model(torch.tensor([[5]]))
"""
LLAMA_CPP = """
import llama_cpp
def load(path):
    return llama_cpp.Llama(path, n_ctx=512, verbose=False, use_mmap={mapped})
def ask(model):
    model.eval([5])
"""
MEASURED = """
import json, sys, time
import torch
torch.set_num_threads(int(sys.argv[2]))
{loader}
print("ready", flush=True)
sys.stdin.readline()
began, used = time.perf_counter(), time.process_time()
model = load(sys.argv[1])
loaded, cpu = time.perf_counter() - began, time.process_time() - used
ask(model)
print(json.dumps([loaded, time.perf_counter() - began, cpu]), flush=True)
"""
# torch's threads mean nothing to llama.cpp, whose environment may be without torch
WITHOUT_TORCH = MEASURED.replace("import torch\ntorch.set_num_threads(int(sys.argv[2]))\n", "")


@dataclass(frozen=True, slots=True)
class Turn:
    """Seconds until it was loaded, until a first token, of all cores; and those of `cat` next."""

    load_s: float
    token_s: float
    cpu_s: float
    cat_s: float


@dataclass(frozen=True, slots=True)
class Loading:
    """Medians of one loader over the turns; ``of_cat`` is the median of each turn's ratio."""

    format: str
    loader: str
    state: str
    file_mib: float
    load_s: float
    token_s: float
    cpu_s: float
    cat_s: float
    of_cat: float
    token_of_cat: float
    turns: list[dict[str, float]]


def loaders(format: str, compiled: bool) -> dict[str, str]:
    """What is run for each loader that is installed and reads the format."""
    found = {"helexa": MEASURED.replace("{loader}", HELEXA.replace("{options}", ""))}
    if compiled:
        options = ", compile=True"
        found["helexa, compiled"] = MEASURED.replace(
            "{loader}", HELEXA.replace("{options}", options)
        )
    if format == PLAIN and importlib.util.find_spec("transformers"):
        found["transformers"] = MEASURED.replace("{loader}", TRANSFORMERS)
    if importlib.util.find_spec("llama_cpp"):
        for name, mapped in (("llama.cpp, mapped", True), ("llama.cpp", False)):
            script = LLAMA_CPP.replace("{mapped}", str(mapped))
            found[name] = WITHOUT_TORCH.replace("{loader}", script)
    return found


def paths_of(loader: str, format: str, folder: Path) -> tuple[Path, Path]:
    """What a loader is given, and the file that is in it."""
    if format == PLAIN and not loader.startswith("llama.cpp"):
        return folder, folder / "model.safetensors"
    file = export_gguf(folder, format)
    return file, file


def turn(script: str, model: Path, file: Path, state: str, threads: int) -> Turn:
    """One loader, and then `cat`, with the file in a state of the page cache."""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(model), str(threads)],
        env=environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        answer = next((line for line in process.stdout if line == "ready\n"), "")
        if not answer:
            raise SystemExit("a loader died before it could load; its error is above")
        bring_to(file, state)
        process.stdin.write("\n")
        process.stdin.flush()
        found = json.loads(process.stdout.readline())
    bring_to(file, state)
    return Turn(*found, cat_s=cat(file))


def cat(file: Path) -> float:
    """Seconds that `cat` takes to read a file, the start of its process included."""
    began = time.perf_counter()
    subprocess.run(["cat", str(file)], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def bring_to(file: Path, state: str) -> None:
    """Make the file's pages resident, or drop them. Raises SystemExit if they do not go."""
    if state == "warm":
        cat(file)
        return
    with file.open("rb") as handle:
        os.fsync(handle.fileno())  # pages that wait to be written cannot be dropped
        os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if (left := resident(file)) > 0.01:
        raise SystemExit(f"{left:.0%} of {file} stays in memory: somebody has it mapped")


def resident(file: Path) -> float:
    """The part of a file's pages that are in memory, as mincore(2) tells; Linux only."""
    with file.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_COPY) as view:
        pages = -(-len(view) // mmap.PAGESIZE)
        told = (ctypes.c_ubyte * pages)()
        start = ctypes.addressof(first := ctypes.c_char.from_buffer(view))
        error = ctypes.CDLL(None, use_errno=True).mincore(
            ctypes.c_void_p(start), ctypes.c_size_t(len(view)), told
        )
        del first  # the map cannot be closed while it is exported
        if error:
            raise OSError(ctypes.get_errno(), "mincore")
        return sum(page & 1 for page in told) / pages


def measure(format: str, folder: Path, options: argparse.Namespace) -> list[Loading]:
    """All loaders of one format, in turns."""
    scripts = loaders(format, options.compile)
    turns: dict[tuple[str, str], list[Turn]] = {(n, s): [] for s in STATES for n in scripts}
    for _ in range(options.rounds):
        for (name, state), found in turns.items():
            paths = paths_of(name, format, folder)
            found.append(turn(scripts[name], *paths, state, options.threads))
    return [
        summary(format, name, state, paths_of(name, format, folder)[1], found)
        for (name, state), found in turns.items()
    ]


def summary(format: str, loader: str, state: str, file: Path, turns: list[Turn]) -> Loading:
    """The medians of a loader's turns."""
    fields = (
        [t.load_s for t in turns],
        [t.token_s for t in turns],
        [t.cpu_s for t in turns],
        [t.cat_s for t in turns],
        [t.cat_s / t.load_s for t in turns],
        [t.cat_s / t.token_s for t in turns],
    )
    medians = [statistics.median(values) for values in fields]
    size = file.stat().st_size / MIB
    return Loading(format, loader, state, size, *medians, [asdict(t) for t in turns])


def main() -> None:
    """Print the medians of each loader."""
    parser = arguments(__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="0.6b")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=[PLAIN, "q8_0", "q4_k_m"])
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--threads", type=positive, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--compile", action="store_true", help="load helexa compiled, too")
    folder = Path(tempfile.gettempdir()) / "helexa-load"
    parser.add_argument("--folder", type=new_folder, default=folder)
    options = parser.parse_args()
    folder = make_checkpoint(options.shape, options.folder)
    found = [one for format in options.formats for one in measure(format, folder, options)]
    about = {name: getattr(options, name) for name in ("shape", "rounds", "threads")}
    publish(
        options.json,
        about,
        found,
        {
            "format": lambda o: o.format,
            "loader": lambda o: o.loader,
            "files are": lambda o: o.state,
            "MiB": lambda o: f"{o.file_mib:.0f}",
            "loaded, s": lambda o: f"{o.load_s:.2f}",
            "first token, s": lambda o: f"{o.token_s:.2f}",
            "CPU, s": lambda o: f"{o.cpu_s:.2f}",
            "cat, s": lambda o: f"{o.cat_s:.2f}",
            "of cat": lambda o: spread(
                [100 * t["cat_s"] / t["load_s"] for t in o.turns], ".0f", " %"
            ),
            "first token of cat": lambda o: spread(
                [100 * t["cat_s"] / t["token_s"] for t in o.turns], ".0f", " %"
            ),
        },
    )


if __name__ == "__main__":
    main()
