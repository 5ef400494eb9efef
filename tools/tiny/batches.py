"""From encoded samples to padded batches of similar length."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor

from tools.tiny.corpus import mix
from tools.tiny.corpus.base import Dice, Sample
from tools.tiny.render import Encoded, encode
from tools.tiny.team import Team

LONGEST = 2048
SCORED = ("greetings", "arithmetic", "lists", "facts", "find", "instructions", "tools", "no_tool")


@dataclass(frozen=True, slots=True)
class Batch:
    """Right-padded rows and what to predict at which flat position of them."""

    ids: Tensor  # (B, T)
    where: Tensor  # (N,), positions in the flattened rows whose next token counts
    labels: Tensor  # (N,)
    weights: Tensor  # (N,), sum over the whole step is one
    tokens: int


def step_samples(
    tokenizer: Tokenizer, seed: int, step: int, progress: float, tokens: int
) -> list[Encoded]:
    """Draw the samples of one step: about `tokens` tokens in all."""
    dice = Dice(seed * 1_000_003 + step)
    found: list[Encoded] = []
    total = 0
    while total < tokens:
        drawn = [mix.training(dice, progress) for _ in range(24)]
        for encoded in encode(tokenizer, drawn):
            if len(encoded.ids) <= LONGEST and total < tokens:
                found.append(encoded)
                total += len(encoded.ids)
    return found


def split(samples: Iterable[Encoded], micro_tokens: int) -> list[list[Encoded]]:
    """Group samples of similar length so that each padded group has at most `micro_tokens`."""
    groups: list[list[Encoded]] = []
    for encoded in sorted(samples, key=lambda e: -len(e.ids)):
        if groups and len(groups[-1][0].ids) * (len(groups[-1]) + 1) <= micro_tokens:
            groups[-1].append(encoded)
        else:
            groups.append([encoded])
    return groups


def collate(group: Sequence[Encoded], total_weight: float) -> Batch:
    """Pad one group; the last token of a row is only ever predicted."""
    length = max(len(e.ids) for e in group) - 1
    ids = torch.zeros(len(group), length, dtype=torch.long)
    where: list[int] = []
    labels: list[int] = []
    weights: list[float] = []
    for row, e in enumerate(group):
        ids[row, : len(e.ids) - 1] = torch.tensor(e.ids[:-1])
        learned = [i for i, weight in enumerate(e.weights) if weight]
        where += [row * length + i - 1 for i in learned]
        labels += [e.ids[i] for i in learned]
        weights += [e.weights[i] / total_weight for i in learned]
    tokens = sum(len(e.ids) for e in group)
    return Batch(ids, torch.tensor(where), torch.tensor(labels), torch.tensor(weights), tokens)


def batches(samples: Sequence[Encoded], micro_tokens: int, team: Team) -> list[Batch]:
    """Return this process's batches of one step: its equal share of the samples of each length."""
    total = sum(sum(e.weights) for e in samples)
    mine = sorted(samples, key=lambda e: -len(e.ids))[team.rank :: team.size]
    return [collate(group, total) for group in split(mine, micro_tokens)]


def held_out_batches(tokenizer: Tokenizer, count: int, micro_tokens: int) -> dict[str, list[Batch]]:
    """Return `count` held-out samples of each skill as batches."""
    found: dict[str, list[Batch]] = {}
    for skill in SCORED:
        samples: list[Sample] = list(mix.held_out(skill, 7, count))
        found[skill] = batches(encode(tokenizer, samples), micro_tokens, Team())
    return found
