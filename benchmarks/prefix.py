"""Time to the first token of a prompt of which most was seen before, beside that of a new one.

    python -m benchmarks.prefix                        # layers of Qwen3 0.6B, a minute
    python -m benchmarks.prefix --shape small --tokens 1024 --rounds 1

Each round asks for one token after a prompt of random ids, then after the same prompt with another
end. The least that the second may take is told, too: the part of the work that its end is. That is
its part of the tokens in all products with weights, and more of attention, as each token attends to
all before it.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.readings import arguments, at_least, new_folder, positive, publish, share, spread
from benchmarks.shapes import SHAPES, make_checkpoint
from helexa.engine.build import build_core
from helexa.engine.config import EngineConfig
from helexa.engine.core import EngineCore
from helexa.engine.models.model import BLOCK_SIZE
from helexa.engine.outputs import Request
from helexa.engine.params import SamplingParams


@dataclass(frozen=True, slots=True)
class Warm:
    """Medians in milliseconds; ``part`` is the median of warm / cold within a round.

    ``unseen`` is the part of the tokens that was new, with what a block cannot share; ``least`` the
    part of the work.
    """

    shape: str
    tokens: int
    cold_ms: float
    warm_ms: float
    part: float
    unseen: float
    least: float
    rounds: list[dict[str, float]]


@dataclass(frozen=True, slots=True)
class Turn:
    """Seconds to a first token, and tokens that the warm prompt found in the cache."""

    cold_s: float
    warm_s: float
    cached: int


def first_token(core: EngineCore, ids: list[int]) -> tuple[float, int]:
    """Seconds until the core is done with one greedy token, and how many ids it had cached."""
    params = SamplingParams(max_tokens=1, temperature=0, ignore_eos=True)
    cached = 0
    began = time.perf_counter()
    core.submit(Request(tuple(ids), params))
    while not core.idle:
        for output in core.step():
            cached = output.cached_tokens or cached
    return time.perf_counter() - began, cached


def turn(core: EngineCore, tokens: int, seen: int, seed: int, vocab: int) -> Turn:
    """A prompt that is new, then one that begins with ``seen`` of its ids."""
    chosen = random.Random(seed)
    ids = [chosen.randrange(100, vocab) for _ in range(tokens)]
    end = [chosen.randrange(100, vocab) for _ in range(tokens - seen)]
    cold_s, found = first_token(core, ids)
    if found:
        raise SystemExit("the new prompt was found in the cache")
    return Turn(cold_s, *first_token(core, ids[:seen] + end))


def least_part(shape: str, tokens: int, cached: int) -> float:
    """The multiplications of the tokens after ``cached``, as a part of those of all ``tokens``.

    A token takes one for each number of the layers' matrices, and 2 · heads · head_dim for each
    token that it attends to: with its key, and with its value.
    """
    sizes = SHAPES[shape]
    hidden, heads, head = (
        sizes[name] for name in ("hidden_size", "num_attention_heads", "head_dim")
    )
    projections = hidden * head * 2 * (heads + sizes["num_key_value_heads"])
    numbers = projections + 3 * hidden * sizes["intermediate_size"]

    def work(count: int) -> float:
        return count * numbers + heads * head * count * (count + 1)

    return 1 - work(cached) / work(tokens)


def measure(options: argparse.Namespace) -> Warm:
    """All rounds on one core; the first, which warms up, is not counted."""
    folder = make_checkpoint(options.shape, options.folder)
    tokens, seen = options.tokens, round(options.tokens * options.seen)
    room = 2 * (tokens + BLOCK_SIZE)
    config = EngineConfig(
        device=options.device, max_batch=1, kv_context_tokens=room, dedicated=True
    )
    core = build_core(str(folder), config)
    vocab = SHAPES[options.shape]["vocab_size"]
    turn(core, min(tokens, 256), min(seen, 128), 0, vocab)
    turns = [turn(core, tokens, seen, seed, vocab) for seed in range(1, options.rounds + 1)]
    core.close()
    cached = min(one.cached for one in turns)
    return Warm(
        options.shape,
        tokens,
        1e3 * statistics.median(one.cold_s for one in turns),
        1e3 * statistics.median(one.warm_s for one in turns),
        statistics.median(one.warm_s / one.cold_s for one in turns),
        1 - cached / tokens,
        least_part(options.shape, tokens, cached),
        [asdict(one) for one in turns],
    )


def main() -> None:
    """Print the medians."""
    parser = arguments(__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="0.6b-seventh")
    parser.add_argument(
        "--tokens", type=at_least(2 * BLOCK_SIZE), default=8192, help="of the prompt"
    )
    parser.add_argument("--seen", type=share, default=0.98, help="part of it that was seen")
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--device", default="cpu")
    folder = Path(tempfile.gettempdir()) / "helexa-benchmarks"
    parser.add_argument("--folder", type=new_folder, default=folder)
    options = parser.parse_args()
    about = {name: getattr(options, name) for name in ("device", "seen", "rounds")}
    publish(
        options.json,
        about,
        [measure(options)],
        {
            "shape": lambda o: o.shape,
            "tokens": lambda o: f"{o.tokens}",
            "new, ms": lambda o: f"{o.cold_ms:.0f}",
            "seen, ms": lambda o: f"{o.warm_ms:.0f}",
            "of a new one": lambda o: spread(
                [100 * t["warm_s"] / t["cold_s"] for t in o.rounds], ".1f", " %"
            ),
            "tokens not seen": lambda o: f"{o.unseen:.1%}",
            "work to do": lambda o: f"{o.least:.1%}",
        },
    )


if __name__ == "__main__":
    main()
