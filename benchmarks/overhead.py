"""What the engine core itself costs per decode step, on a CPU.

Counted: planning the step, laying out its batch, sampling, and making the outputs, all that
``EngineCore.step`` does. Not counted: the model (forward pass and output layer), and the way of an
output from the core to who asked: the host's hand-over, detokenising, parsing.
"""

from __future__ import annotations

import statistics

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
