"""What drafts gain and what they cost: the same answers with and without, taking turns.

    python -m benchmarks.drafts                                # the built-in model, a minute
    python -m benchmarks.drafts --shape 0.6b --json drafts.json

The built-in model is given texts to repeat and to make up, with drafts looked up in the text.
A shape has random weights, whose answers quote nothing: there the drafter has read the answer
before, and is always right, right three times in four, or always wrong. So the first says what a
draft gains at most on this machine, and the last what drafts cost that never help.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

import helexa
from benchmarks.shapes import SHAPES, make_checkpoint
from helexa.engine.build import claim, describe, plan_pool
from helexa.engine.config import EngineConfig
from helexa.engine.core import EngineCore
from helexa.engine.loading import load_model
from helexa.engine.outputs import DraftCounts, Request, StepOutput
from helexa.engine.params import GenerationDefaults, SamplingParams
from helexa.engine.runner import Runner
from helexa.engine.sampling import Sampler
from helexa.engine.sequence import Sequence as Row

PROMPT_TOKENS = 256
ALWAYS, MOSTLY, NEVER = 1.0, 0.75, 0.0
TASKS = {
    "repeat": ("Repeat exactly: red green blue red green blue red green blue", 0.0),
    "count": ("Count from 1 to 20.", 0.0),
    "story": ("Write a short story about a cat.", 0.0),
    "free text": ("Tell me a long story about an owl and a fox.", 1.0),
}
"""What the built-in model is asked, and at which temperature."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One answer: milliseconds for each token after the first, and its drafts."""

    ms: float
    drafts: DraftCounts
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """A task's medians: milliseconds per token, tokens per second as a multiple of those without.

    ``same``: whether each answer was the same with drafts.
    """

    task: str
    plain_ms: float
    drafted_ms: float
    speed: float
    lowest: float
    acceptance: float
    drafted_per_token: float
    same: bool


def measured(task: str, ask: Callable[[bool], Reading], rounds: int) -> Result:
    """Ask with and without in turn, once more in front of that for what is only done once."""
    for drafts in (False, True):
        ask(drafts)
    pairs = []
    for index in range(rounds):
        order = (False, True) if index % 2 else (True, False)
        found = {drafts: ask(drafts) for drafts in order}
        pairs.append((found[False], found[True]))
    ratios = [plain.ms / drafted.ms for plain, drafted in pairs]
    counts = [drafted.drafts for _, drafted in pairs]
    total = DraftCounts(sum(c.drafted for c in counts), sum(c.accepted for c in counts))
    return Result(
        task,
        plain_ms=round(statistics.median(plain.ms for plain, _ in pairs), 3),
        drafted_ms=round(statistics.median(drafted.ms for _, drafted in pairs), 3),
        speed=round(statistics.median(ratios), 3),
        lowest=round(min(ratios), 3),
        acceptance=round(total.acceptance, 3),
        drafted_per_token=round(total.drafted / sum(len(d.tokens) for _, d in pairs), 3),
        same=all(plain.tokens == drafted.tokens for plain, drafted in pairs),
    )


def builtin(tokens: int, rounds: int) -> list[Result]:
    """The built-in model on its tasks."""
    with helexa.LLM("tiny", drafter="lookup", dtype="float32") as llm:

        def asking(prompt: str, temperature: float) -> Callable[[bool], Reading]:
            def ask(drafts: bool) -> Reading:
                answer = llm.chat(
                    prompt,
                    temperature=temperature,
                    seed=1,
                    max_tokens=tokens,
                    ignore_eos=True,
                    speculative=drafts,
                )
                usage, ids = answer.usage, answer.token_ids
                counts = usage.drafts or DraftCounts()
                return Reading(usage.decode_ms / (len(ids) - 1), counts, ids)

            return ask

        return [measured(f"tiny: {name}", asking(*task), rounds) for name, task in TASKS.items()]


class Scripted:
    """A drafter that has read the answer, and says of each token the truth or not."""

    def __init__(self, truth: float) -> None:
        self.truth = truth
        self.answer: tuple[int, ...] = ()
        self._chance = random.Random(1)

    def propose(self, seq: Row, count: int) -> Sequence[int]:
        done = len(seq.generated)
        known = self.answer[done : done + count]
        return [token ^ (self._chance.random() >= self.truth) for token in known]

    def drop(self, seq: Row) -> None:
        """Nothing is kept."""


def shaped(shape: str, folder: Path, tokens: int, rounds: int) -> list[Result]:
    """A model of random weights with drafts that are right so often."""
    config = EngineConfig(device="cpu", drafter="lookup", max_batch=1, max_context=2048)
    model = load_model(make_checkpoint(shape, folder), device="cpu", dtype="auto")
    size = plan_pool(model, config)
    spec = describe(model, size, config, GenerationDefaults(), frozenset())
    runner = Runner(model, claim(model, size, config))
    prompt = tuple((7 * i + 3) % 8000 for i in range(PROMPT_TOKENS))
    results = []
    for name, truth in (("right", ALWAYS), ("3 of 4 right", MOSTLY), ("wrong", NEVER)):
        drafter = Scripted(truth)
        core = EngineCore(runner, Sampler(spec.vocab_size), spec, config, drafter=drafter)

        def ask(drafts: bool, core: EngineCore = core, drafter: Scripted = drafter) -> Reading:
            params = SamplingParams(max_tokens=tokens, temperature=1.0, seed=2, speculative=drafts)
            core.submit(Request(prompt, params))
            outputs: list[StepOutput] = []
            while not core.idle:
                outputs += core.step()
            ids = tuple(token for output in outputs for token in output.token_ids)
            drafter.answer = drafter.answer or ids
            timing, counts = outputs[-1].timing, outputs[-1].drafts or DraftCounts()
            assert timing is not None
            return Reading(timing.decode_ms / (len(ids) - 1), counts, ids)

        results.append(measured(f"{shape}: {name}", ask, rounds))
    return results


def table(results: list[Result]) -> str:
    lines = [
        "| task | ms a token | with drafts | speed | lowest | right | drafted a token | same |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    lines += [
        f"| {r.task} | {r.plain_ms:.2f} | {r.drafted_ms:.2f} | {r.speed:.2f} × | {r.lowest:.2f} × "
        f"| {r.acceptance:.0%} | {r.drafted_per_token:.2f} | {'yes' if r.same else 'no'} |"
        for r in results
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=sorted(SHAPES), help="a model of random weights, too")
    parser.add_argument("--folder", type=Path, default=Path("bench-models"))
    parser.add_argument("--tokens", type=int, default=256, help="of each answer")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", help="where to write the results, - for the screen")
    args = parser.parse_args()
    results = builtin(args.tokens, args.rounds)
    if args.shape:
        results += shaped(args.shape, args.folder, args.tokens, args.rounds)
    print(table(results))
    if args.json:
        about = {"machine": platform.processor() or platform.machine(), "torch": torch.__version__}
        text = json.dumps({**about, "results": [asdict(r) for r in results]}, indent=2)
        sys.stdout.write(text + "\n") if args.json == "-" else Path(args.json).write_text(text)


if __name__ == "__main__":
    main()
