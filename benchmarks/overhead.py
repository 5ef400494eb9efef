"""What the engine core itself costs per decode step, on a CPU.

    python -m benchmarks.overhead                      # seconds

Counted: planning the step, laying out its batch, sampling, and making the outputs, all that
``EngineCore.step`` does. Not counted: the model (forward pass and output layer), and the way of an
output from the core to who asked: the host's hand-over, detokenising, parsing.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from benchmarks.readings import arguments, publish

ROWS = (1, 8, 32)
WARM_UP_STEPS = 20
STEPS = 100


def overhead_per_step(rows: int) -> float:
    """Median milliseconds per decode step with ``rows`` sequences of the built-in model.

    On the CPU whatever else there is: of a GPU's work, what the host waits for while it samples
    would be counted.
    """
    from helexa.engine.build import build_core
    from helexa.engine.config import EngineConfig
    from helexa.engine.outputs import Request
    from helexa.engine.params import SamplingParams

    core = build_core("tiny", EngineConfig(device="cpu", max_batch=rows))
    for seed in range(rows):
        params = SamplingParams(
            max_tokens=WARM_UP_STEPS + STEPS, temperature=0.7, top_k=20, seed=seed, ignore_eos=True
        )
        core.submit(Request(tuple(range(10 + seed, 74 + seed)), params))
    while core.status().running < rows or core.status().waiting:
        core.step()
    samples = []
    for index in range(WARM_UP_STEPS + STEPS // 2):
        core.step()
        if index >= WARM_UP_STEPS:
            samples.append(core.status().overhead_ms)
    core.close()
    return statistics.median(samples)


@dataclass(frozen=True, slots=True)
class Overhead:
    """Milliseconds per step of so many rows: the median of the rounds, and the least."""

    rows: int
    median_ms: float
    least_ms: float
    rounds: list[float]


def measure(rows: int, rounds: int) -> Overhead:
    """A core for each round."""
    found = [overhead_per_step(rows) for _ in range(rounds)]
    return Overhead(rows, statistics.median(found), min(found), found)


def main() -> None:
    """Print a line for each number of rows."""
    import torch

    parser = arguments(__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=list(ROWS))
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    publish(
        options.json,
        {"threads": torch.get_num_threads(), "rounds": options.rounds},
        [measure(rows, options.rounds) for rows in options.rows],
        {
            "rows": lambda o: f"{o.rows}",
            "ms a step": lambda o: f"{o.median_ms:.2f}",
            "least": lambda o: f"{o.least_ms:.2f}",
        },
    )


if __name__ == "__main__":
    main()
