"""Where a decode step of one stream goes on a CPU, and how fast it could become.

    python -m benchmarks.floor                      # 0.6B shape, a minute on two cores

A step cannot take less time than its products with the weights, and those cannot take less than
reading the weights. The three take turns, so that a change of the machine's pace meets all.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.shapes import SHAPES, make_checkpoint
from helexa.engine.layers.linear import Linear
from helexa.engine.loading import load_model
from helexa.engine.models.model import Model
from helexa.engine.runner import Runner

PROMPT = 128
READ_FLOATS = 150_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="0.6b")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    folder = Path(tempfile.gettempdir()) / "helexa-benchmarks"
    model = load_model(make_checkpoint(args.shape, folder), device="cpu")
    works = {
        "reading as many bytes": reading(model.nbytes),
        "the products alone": products(model),
        f"a decode step @{PROMPT}": step(model),
    }
    times: dict[str, list[float]] = {name: [] for name in works}
    with torch.inference_mode():
        for _ in range(args.rounds):
            for name, work in works.items():
                times[name].append(taken_s(work))
    Console().print(table(times, model.nbytes))


def reading(nbytes: int) -> Callable[[], object]:
    """Read that many bytes from memory, once."""
    numbers = torch.zeros(min(READ_FLOATS, nbytes // 4))
    times = max(1, round(nbytes / numbers.nbytes))
    return lambda: [numbers.sum() for _ in range(times)]


def products(model: Model) -> Callable[[], object]:
    """Multiply one row with every matrix of the model, as a step does, and nothing else."""
    linears = [module for module in model.modules() if isinstance(module, Linear)]
    rows = [torch.randn(1, linear.inputs) for linear in linears]
    hidden = torch.randn(1, model.config.hidden_size)

    def run() -> None:
        for linear, row in zip(linears, rows, strict=True):
            linear.weight.matmul(row)
        model.logits(hidden)

    return run


def step(model: Model) -> Callable[[], object]:
    """Run one token after a prompt."""
    cache = model.new_cache(tokens=PROMPT + 1)
    runner, blocks = Runner(model, cache), range(cache.num_blocks)
    runner.run([(range(PROMPT), 0, blocks, True)])
    return lambda: runner.run([([5], PROMPT, blocks, True)])


def taken_s(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def table(times: dict[str, list[float]], nbytes: int) -> Table:
    """Medians and bests in milliseconds, and the bytes of the weights per second."""
    shown = Table(title=f"one row, {nbytes / 1e9:.2f} GB of weights")
    for column in ("", "median ms", "best ms", "GB/s"):
        shown.add_column(column, justify="left" if not column else "right")
    for name, taken in times.items():
        median = statistics.median(taken)
        cells = (f"{1e3 * median:.1f}", f"{1e3 * min(taken):.1f}", f"{nbytes / median / 1e9:.1f}")
        shown.add_row(name, *cells)
    return shown


if __name__ == "__main__":
    main()
