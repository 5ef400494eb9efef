"""Train the built-in model: `python -m tools.tiny.train --out FOLDER`.

The run is seeded, writes a checkpoint every few minutes and goes on from the last one it finds.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F

from tools.tiny import tokenizer as bpe
from tools.tiny.batches import Batch, batches, held_out_batches, step_samples
from tools.tiny.corpus import mix
from tools.tiny.corpus.base import Dice
from tools.tiny.model import Qwen3, Shape
from tools.tiny.muon import optimizers
from tools.tiny.render import FOLDER, prompt, target
from tools.tiny.team import Team, together


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run does; the defaults made the model that ships."""

    steps: int = 12040
    step_tokens: int = 6144
    micro_tokens: int = 2048
    matrix_lr: float = 0.02
    other_lr: float = 0.003
    warmup: int = 60
    falls: tuple[tuple[int, int, float], ...] = (
        (962, 1750, 1.0),
        (1750, 2380, 0.6),
        (2380, 5760, 0.8),
        (5760, 6260, 0.35),
        (6260, 8860, 0.7),
        (8860, 9310, 0.5),
        (9310, 9640, 0.35),
        (9640, 12040, 0.6),
    )
    seed: int = 1

    def scale(self, step: int) -> float:
        """Learning rate as a share of its top: warm up, stay, then fall to zero eight times."""
        for begin, end, top in self.falls:
            if begin <= step < end:
                return top * (end - step) / (end - begin)
        return min(1.0, (step + 1) / self.warmup)


class Run:
    """One training run: the model, its optimizers and where it stands."""

    def __init__(
        self, plan: Plan, tokenizer: Tokenizer, device: str, compiled: bool, team: Team
    ) -> None:
        torch.manual_seed(plan.seed)
        self.plan, self.tokenizer, self.device, self.team = plan, tokenizer, device, team
        self.model = Qwen3(Shape(vocab=tokenizer.get_vocab_size())).to(device)
        self.forward = torch.compile(self.model, dynamic=True) if compiled else self.model
        self.optimizers = optimizers(self.model, plan.matrix_lr, plan.other_lr, team)
        self.step, self.tokens, self.seconds = 0, 0, 0.0

    def loss(self, batch: Batch) -> Tensor:
        """Return the weighted loss of one batch."""
        logits = self.forward(batch.ids.to(self.device), batch.where.to(self.device))
        each = F.cross_entropy(logits.float(), batch.labels.to(self.device), reduction="none")
        return (each * batch.weights.to(self.device)).sum()

    def advance(self) -> float:
        """Take one step and return its loss."""
        began = time.monotonic()
        plan, total = self.plan, 0.0
        progress = self.step / plan.steps
        drawn = step_samples(self.tokenizer, plan.seed, self.step, progress, plan.step_tokens)
        for batch in batches(drawn, plan.micro_tokens, self.team):
            loss = self.loss(batch)
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            total += loss.item()
        self.tokens += sum(len(e.ids) for e in drawn)
        self.team.add_up([w.grad for w in self.model.parameters() if w.grad is not None])
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["top"] * plan.scale(self.step)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.seconds += time.monotonic() - began
        return total

    @torch.no_grad()
    def score(self, held_out: dict[str, list[Batch]]) -> dict[str, float]:
        """Return, for each skill, the share of held-out answers with every token right."""
        found = {}
        for skill, group in held_out.items():
            right = rows = 0
            for batch in group:
                logits = self.model(batch.ids.to(self.device), batch.where.to(self.device))
                wrong = logits.argmax(-1).cpu() != batch.labels
                missed = torch.zeros(len(batch.ids), dtype=torch.bool)
                missed[(batch.where // batch.ids.shape[1])[wrong]] = True
                right, rows = right + int((~missed).sum()), rows + len(missed)
            found[skill] = round(right / rows, 2)
        return found

    def save(self, path: Path) -> None:
        """Write the checkpoint in one move."""
        state = {
            "model": self.model.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
            "at": (self.step, self.tokens, self.seconds),
        }
        torch.save(state, path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint."""
        state: dict[str, Any] = torch.load(path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.tokens, self.seconds = state["at"]


def learn_tokenizer(seed: int, count: int = 12_000) -> Tokenizer:
    """Learn the tokenizer from the corpus and write it into the model's folder."""
    dice = Dice(seed)
    samples = [mix.training(dice, 0.9) for _ in range(count)]
    texts = bpe.plain_texts(prompt(s) + target(s) if s.messages else s.answer for s in samples)
    tokenizer = bpe.learn(texts)
    bpe.save(tokenizer, FOLDER)
    return tokenizer


def train(run: Run, out: Path, save_every_s: float) -> None:
    """Run to the end of the plan, with a checkpoint and a line in the log now and then."""
    checkpoint, log = out / "checkpoint.pt", out / "log.jsonl"
    held_out = held_out_batches(run.tokenizer, 16, run.plan.micro_tokens)
    if checkpoint.exists():
        run.load(checkpoint)
    saved, losses = time.monotonic(), []
    while run.step < run.plan.steps:
        losses.append(run.advance())
        if run.team.rank:
            continue
        cooled = any(run.step == end for _, end, _ in run.plan.falls)
        if run.step % 25 == 0:
            _note(log, run, loss=round(sum(losses) / len(losses), 4))
            losses.clear()
        if cooled or time.monotonic() - saved > save_every_s:
            run.save(checkpoint)
            if cooled:
                run.save(out / f"step-{run.step}.pt")
            _note(log, run, right=run.score(held_out))
            saved = time.monotonic()


def _note(log: Path, run: Run, **facts: Any) -> None:
    """Add one line to the log."""
    line = {"step": run.step, "tokens": run.tokens, "seconds": round(run.seconds), **facts}
    with log.open("a") as file:
        file.write(json.dumps(line) + "\n")


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoint and log")
    parser.add_argument("--steps", type=int, default=Plan().steps)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--processes", type=int, default=2, help="use 1 on a GPU")
    parser.add_argument("--save-every", type=float, default=300.0, help="seconds")
    parser.add_argument("--eager", action="store_true", help="do not compile the model")
    parser.add_argument("--new-tokenizer", action="store_true", help="learn it again first")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.new_tokenizer:
        learn_tokenizer(Plan().seed)
    together(given.processes, partial(work, given=given))


def work(team: Team, given: argparse.Namespace) -> None:
    """Train as one of a team."""
    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    run = Run(Plan(steps=given.steps), tokenizer, given.device, not given.eager, team)
    train(run, given.out, given.save_every)


if __name__ == "__main__":
    main()
