"""Where a decode step of one stream goes on a CPU, and how fast it could become.

    python -m benchmarks.floor                      # 0.6B shape, a minute on two cores

A step cannot take less time than its products with the weights, and those cannot take less than
reading the weights. They take turns, with the same step of transformers where that is installed, so
that a change of the machine's pace meets all; the last column says how many times faster than
transformers an engine would be that did nothing else.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import readings
from benchmarks.engines import available
from benchmarks.shapes import SHAPES, make_checkpoint
from helexa.engine.layers.linear import Linear
from helexa.engine.loading import load_model
from helexa.engine.models.model import Model
from helexa.engine.runner import Runner

PROMPT = 128
READ_FLOATS = 150_000_000
PEER = f"transformers' step @{PROMPT}"


def main() -> None:
    parser = readings.arguments(__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="0.6b")
    parser.add_argument("--rounds", type=readings.positive, default=20)
    parser.add_argument("--threads", type=readings.positive, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    checkpoint = make_checkpoint(args.shape, Path(tempfile.gettempdir()) / "helexa-benchmarks")
    model = load_model(checkpoint, device="cpu")
    works = {
        "reading as many bytes": reading(model.nbytes),
        "the products alone": products(model),
        f"a decode step @{PROMPT}": step(model),
    }
    if available("transformers"):
        works[PEER] = peers_step(checkpoint)
    times: dict[str, list[float]] = {name: [] for name in works}
    with torch.inference_mode():
        for _ in range(args.rounds):
            for name, work in works.items():
                times[name].append(taken_s(work))
    readings.say(
        args.json, f"one row, {model.nbytes / 1e9:.2f} GB of weights\n", table(times, model.nbytes)
    )
    facts = {"shape": args.shape, "rounds": args.rounds, "nbytes": model.nbytes}
    readings.write(args.json, {**readings.about(), **facts, "seconds": times})


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


def peers_step(checkpoint: Path) -> Callable[[], object]:
    """The same step by transformers, in the checkpoint's format."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype=torch.bfloat16, attn_implementation="sdpa"
    ).eval()
    with torch.inference_mode():
        seen = model(torch.arange(PROMPT)[None], use_cache=True).past_key_values

    def run() -> None:
        model(torch.tensor([[5]]), past_key_values=seen, use_cache=True)
        seen.crop(-1)

    return run


def taken_s(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def table(times: dict[str, list[float]], nbytes: int) -> str:
    """Medians and bests in milliseconds, the bytes of the weights per second, × transformers.

    The latter is the median of the rounds' ratios, with the least and the most.
    """
    rows = []
    for name, taken in times.items():
        median = statistics.median(taken)
        ratios = [theirs / ours for theirs, ours in zip(times.get(PEER, ()), taken, strict=False)]
        cells = (f"{1e3 * median:.1f}", f"{1e3 * min(taken):.1f}", f"{nbytes / median / 1e9:.1f}")
        rows.append([name, *cells, readings.spread(ratios) if ratios else "–"])
    return readings.markdown(("", "median ms", "best ms", "GB/s", "× transformers"), rows)


if __name__ == "__main__":
    main()
