"""What drafts gain and what they cost: the same answers with and without, taking turns.

    python -m benchmarks.drafts                                # the built-in model, a minute
    python -m benchmarks.drafts --shape 0.6b --json drafts.json
    python -m benchmarks.drafts --compile                      # models with compiled kernels

The built-in model is given texts to copy and to make up. Then each model writes what it is told to:
its own draws are made, and replaced by the words of a text that is known beforehand. So the look-up
meets real text whatever the weights: an answer that is the text of the prompt with a word changed
here and there, and one that has nothing to do with the prompt. For a shape, whose weights are
random, there are also drafters that have read the answer and say the truth always, in three cases
out of four, in one of two, never; or only as long as nothing is bet on it, which is the worst case.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

import helexa
from benchmarks.readings import (
    arguments,
    at_least,
    new_folder,
    positive,
    publish,
    spread,
)
from benchmarks.shapes import SHAPES, make_checkpoint
from helexa.engine.ahead.launched import Onward
from helexa.engine.build import claim, describe, plan_pool
from helexa.engine.config import EngineConfig
from helexa.engine.core import EngineCore
from helexa.engine.drafting.drafter import Drafter
from helexa.engine.drafting.lookup import LookupDrafter
from helexa.engine.loading import load_model
from helexa.engine.models.model import Model
from helexa.engine.outputs import DraftCounts, Request
from helexa.engine.params import GenerationDefaults, SamplingParams
from helexa.engine.runner import Runner
from helexa.engine.sampling import Sampled, Sampler, SampleRow
from helexa.engine.sequence import Sequence as Row

COPIES, ELSEWHERE = 1.5, 0.97
"""What is wanted where an answer quotes its prompt, and where nothing helps."""
TASKS: dict[str, tuple[str, float, float | None]] = {
    "copy": (
        (
            "Repeat exactly: river stone garden window silver morning paper bridge yellow candle "
            "winter orange forest button mirror ladder summer pocket castle feather"
        ),
        0.0,
        COPIES,
    ),
    "repeat": ("Repeat exactly: red green blue red green blue red green blue", 0.0, COPIES),
    "count": ("Count from 1 to 20.", 0.0, ELSEWHERE),
    "story": ("Write a short story about a cat.", 0.0, ELSEWHERE),
    "free text": ("Tell me a long story about an owl and a fox.", 1.0, ELSEWHERE),
}
"""What the built-in model is asked, at which temperature, and the speed that is wanted."""
DOCS = Path(__file__).parents[1] / "docs"
QUOTED, OTHER = DOCS / "architecture.md", DOCS / "gateway.md"
EDITED_EVERY = 15
"""Words from one that is changed to the next."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One answer: milliseconds for each token after the first, by the clock and of the thread."""

    ms: float
    busy_ms: float
    drafts: DraftCounts
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """A task's medians: milliseconds per token, tokens per second as a multiple of those without.

    ``busy``: the same by the time that the thread was busy, which others disturb less. ``wanted``
    is the least that it should be. ``same``: whether each answer was the same with drafts.
    ``rounds``: of each the milliseconds, of the clock and of the thread, without and with drafts.
    """

    task: str
    plain_ms: float
    drafted_ms: float
    speed: float
    busy: float
    wanted: float | None
    acceptance: float
    drafted_per_token: float
    same: bool
    rounds: list[dict[str, float]]

    def spread(self, kind: str) -> str:
        """The rounds' ratios, by the clock's time (`ms`) or the thread's (`busy_ms`)."""
        return spread([one[f"plain_{kind}"] / one[f"drafted_{kind}"] for one in self.rounds])


@dataclass(frozen=True, slots=True)
class Task:
    """A prompt and who guesses; ``written`` is the answer if it is not the model's own."""

    name: str
    prompt: tuple[int, ...]
    drafter: Callable[[], Drafter] = LookupDrafter
    written: tuple[int, ...] | None = None
    temperature: float = 1.0
    wanted: float | None = None


class Told(Sampler):
    """Draws as any other, then writes what it has been told to."""

    def __init__(self, vocab_size: int, answer: Sequence[int] | None) -> None:
        super().__init__(vocab_size)
        self._answer = answer

    def sample(
        self, logits: Tensor, rows: Sequence[SampleRow], onward: Onward | None = None
    ) -> list[Sampled]:
        drawn = super().sample(logits, rows, onward)
        if self._answer is None:
            return drawn
        told = [self._answer[min(len(row.generated), len(self._answer) - 1)] for row in rows]
        return [replace(one, token_id=token) for one, token in zip(drawn, told, strict=True)]


class Informed:
    """A drafter that has read the answer, and says of each token the truth or not."""

    def __init__(self, truth: float, *, misleads: bool = False) -> None:
        self.answer: tuple[int, ...] = ()
        self._truth = truth
        self._misleads = misleads
        self._chance = random.Random(1)

    def propose(self, seq: Row, count: int) -> Sequence[int]:
        done = len(seq.generated)
        known = self.answer[done : done + count]
        if self._misleads and count == 1:
            return known
        return [token ^ (self._chance.random() >= self._truth) for token in known]

    def drop(self, seq: Row) -> None:
        """Nothing is kept."""


INFORMED: dict[str, tuple[float, bool, float | None]] = {
    "right": (1.0, False, COPIES),
    "3 of 4 right": (0.75, False, None),
    "1 of 2 right": (0.5, False, ELSEWHERE),
    "wrong": (0.0, False, ELSEWHERE),
    "wrong when it counts": (0.0, True, ELSEWHERE),
}
"""Drafters by name: how often they are right, whether they mislead, and the speed wanted."""


class Bench:
    """A model with room for one answer at a time, asked in this thread."""

    def __init__(self, model: Model, tokens: int) -> None:
        self.config = EngineConfig(device="cpu", drafter="lookup", max_batch=1, max_context=2048)
        size = plan_pool(model, self.config)
        self.spec = describe(model, size, self.config, GenerationDefaults(), frozenset())
        self.runner = Runner(model, claim(model, size, self.config))
        self.tokens = tokens

    def asking(self, task: Task) -> Callable[[bool], Reading]:
        """Who asks for a task's answer, with drafts or without."""
        drafter = task.drafter()
        sampler = Told(self.spec.vocab_size, task.written)
        core = EngineCore(self.runner, sampler, self.spec, self.config, drafter=drafter)

        def ask(drafts: bool) -> Reading:
            params = SamplingParams(
                max_tokens=self.tokens,
                temperature=task.temperature,
                seed=2,
                ignore_eos=True,
                speculative=drafts,
            )
            core.submit(Request(task.prompt, params))
            ids: tuple[int, ...] = ()
            while not ids:  # a long prompt takes more than one step
                ids = tuple(token for output in core.step() for token in output.token_ids)
            counts = DraftCounts()
            began, busy = time.perf_counter(), time.thread_time()
            while not core.idle:
                (output,) = core.step()
                ids += output.token_ids
                counts = output.drafts or counts
            later = len(ids) - 1
            ms = (time.perf_counter() - began) * 1e3 / later
            busy_ms = (time.thread_time() - busy) * 1e3 / later
            if isinstance(drafter, Informed):
                drafter.answer = drafter.answer or ids
            return Reading(ms, busy_ms, counts, ids)

        return ask


def measured(task: Task, ask: Callable[[bool], Reading], rounds: int) -> Result:
    """Ask with and without in turn, once more in front of that for what is only done once."""
    for drafts in (False, True):
        ask(drafts)
    pairs = []
    for index in range(rounds):
        order = (False, True) if index % 2 else (True, False)
        found = {drafts: ask(drafts) for drafts in order}
        pairs.append((found[False], found[True]))
    counts = [drafted.drafts for _, drafted in pairs]
    total = DraftCounts(sum(c.drafted for c in counts), sum(c.accepted for c in counts))
    return Result(
        task.name,
        plain_ms=round(statistics.median(plain.ms for plain, _ in pairs), 3),
        drafted_ms=round(statistics.median(drafted.ms for _, drafted in pairs), 3),
        speed=round(statistics.median(p.ms / d.ms for p, d in pairs), 3),
        busy=round(statistics.median(p.busy_ms / d.busy_ms for p, d in pairs), 3),
        wanted=task.wanted,
        acceptance=round(total.acceptance, 3),
        drafted_per_token=round(total.drafted / sum(len(d.tokens) for _, d in pairs), 3),
        same=all(plain.tokens == drafted.tokens for plain, drafted in pairs),
        rounds=[
            {
                **{"plain_ms": plain.ms, "drafted_ms": drafted.ms},
                **{"plain_busy_ms": plain.busy_ms, "drafted_busy_ms": drafted.busy_ms},
            }
            for plain, drafted in pairs
        ],
    )


def prose(page: Path) -> str:
    """The sentences of a page of the documentation, without its tables, lists and code."""
    parts = page.read_text().split("\n\n")
    return " ".join(part.replace("\n", " ") for part in parts if part[:1].isalpha())


def edited(text: str) -> str:
    """A text with a word in capitals, left out or written twice from time to time."""
    words = text.split(" ")
    for turn, index in enumerate(range(EDITED_EVERY, len(words), EDITED_EVERY)):
        words[index] = (words[index].upper(), "", f"{words[index]} {words[index]}")[turn % 3]
    return " ".join(word for word in words if word)


def own_tasks(llm: helexa.LLM) -> Iterator[Task]:
    """What the built-in model answers itself."""
    for name, (asked, temperature, wanted) in TASKS.items():
        text = llm.render([{"role": "user", "content": asked}])
        prompt = tuple(llm.tokenize(text, add_special_tokens=False))
        yield Task(f"tiny: {name}", prompt, temperature=temperature, wanted=wanted)


def written_tasks(llm: helexa.LLM, name: str, tokens: int) -> Iterator[Task]:
    """What any model is told to write, in the built-in model's tokens."""
    text = prose(QUOTED)[: 5 * tokens]
    asked = llm.render([{"role": "user", "content": f"Edit this text: {text}"}])
    prompt = tuple(llm.tokenize(asked, add_special_tokens=False))
    for task, answer, wanted in (
        ("edit this text", edited(text), COPIES),
        ("other prose", prose(OTHER), ELSEWHERE),
    ):
        written = tuple(llm.tokenize(answer, add_special_tokens=False))
        assert len(written) >= tokens, "the page is too short"
        yield Task(f"{name}: {task}", prompt, written=written, wanted=wanted)


def informed_tasks(name: str, prompt: tuple[int, ...]) -> Iterator[Task]:
    """Answers of random weights, with drafters that have read them."""
    for how, (truth, misleads, wanted) in INFORMED.items():

        def drafter(truth: float = truth, misleads: bool = misleads) -> Drafter:
            return Informed(truth, misleads=misleads)

        yield Task(f"{name}: {how}", prompt, drafter, wanted=wanted)


def results(options: argparse.Namespace) -> Iterator[Result]:
    """All tasks of the built-in model, and those of a shape."""
    shape, tokens = options.shape, options.tokens
    with helexa.LLM("tiny") as llm:
        tasks = [*own_tasks(llm), *written_tasks(llm, "tiny", tokens)]
        more = [*written_tasks(llm, shape, tokens)] if shape else []
    tiny = Path(helexa.__file__).parent / "builtin" / "tiny"
    folders = [(tiny, "float32", tasks)]
    if shape:
        more += informed_tasks(shape, more[0].prompt)
        folders.append((make_checkpoint(shape, options.folder), "auto", more))
    for path, dtype, asked in folders:
        model = load_model(path, device="cpu", dtype=dtype, compile=options.compile)
        bench = Bench(model, tokens)
        for task in asked:
            yield measured(task, bench.asking(task), options.rounds)


def main() -> None:
    """Print a line for each task."""
    parser = arguments(__doc__)
    parser.add_argument("--shape", choices=sorted(SHAPES), help="a model of random weights, too")
    folder = Path(tempfile.gettempdir()) / "helexa-benchmarks"
    parser.add_argument("--folder", type=new_folder, default=folder, help="where its weights go")
    parser.add_argument("--tokens", type=at_least(2), default=256, help="of each answer")
    parser.add_argument("--rounds", type=positive, default=7)
    parser.add_argument("--compile", action="store_true", help="models with compiled kernels")
    options = parser.parse_args()
    found = list(results(options))
    names = ("shape", "tokens", "rounds", "compile")
    publish(
        options.json,
        {name: getattr(options, name) for name in names},
        found,
        {
            "task": lambda o: o.task,
            "ms a token": lambda o: f"{o.plain_ms:.2f}",
            "with drafts": lambda o: f"{o.drafted_ms:.2f}",
            "speed": lambda o: o.spread("ms"),
            "of the thread": lambda o: o.spread("busy_ms"),
            "wanted": lambda o: f"{o.wanted:.2f} ×" if o.wanted else "",
            "right": lambda o: f"{o.acceptance:.0%}",
            "drafted a token": lambda o: f"{o.drafted_per_token:.2f}",
            "same": lambda o: "yes" if o.same else "no",
        },
    )


if __name__ == "__main__":
    main()
