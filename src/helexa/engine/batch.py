"""What one forward pass needs, explicitly: all sequences' tokens in one flat dimension."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from helexa.engine.upload import moved

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from helexa.engine.kernels.decoding import Pages


class Part(NamedTuple):
    """One sequence's share of a step, as the scheduler states it.

    ``tokens`` are new, ``context`` tokens are in the cache before them, and ``blocks`` (the block
    table) has room for both. ``want_logits`` of the last positions are to be sampled: none or one,
    or more behind a draft. ``state`` is its slot in a `StateCache`, if the model has one.
    """

    tokens: Sequence[int]
    context: int
    blocks: Sequence[int]
    want_logits: int
    state: int = 0


class Computed(NamedTuple):
    """What a step leaves of the R positions at which logits are wanted.

    ``hidden`` [R, hidden] comes out of the last norm, ``logits`` [R, V] float32 are made of it.
    """

    hidden: Tensor
    logits: Tensor

    def first(self, rows: int) -> Computed:
        """Its first rows, where they are."""
        return Computed(self.hidden[:rows], self.logits[:rows])


class Span(NamedTuple):
    """One sequence's share of a forward pass.

    Its new tokens are the rows ``start`` to ``start + length`` of the batch and follow ``context``
    cached ones. ``slots`` says where all ``context + length`` tokens lie in the cache: a slice if
    the blocks are consecutive (read through a view), else an index [context + length] (gathered).
    ``state`` is the slot of its recurrent state.
    """

    start: int
    length: int
    context: int
    blocks: Sequence[int]
    slots: slice | Tensor
    state: int = 0

    @property
    def rows(self) -> slice:
        """The rows of the batch that are this sequence's."""
        return slice(self.start, self.start + self.length)


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """T new tokens of one or more sequences, and what is wanted of them.

    token_ids [T] and positions [T] are int64, as is logit_rows [R]: the rows whose logits are
    wanted, in the order of the sequences. ``slots`` says where keys and values of the tokens go in
    the cache: a slice if they are neighbours, else an index [T]. ``steps`` are the sequences with a
    single token, by row and by state, None if there are none; ``prompts`` those of more, by first
    row, state and length, an int64 tensor [3, P] on the device; ``fresh_states`` those that begin
    anew. With ``pages``, those of ``steps``, a kernel attends for all of these at once; ``spans``
    leaves them out then.
    """

    token_ids: Tensor
    positions: Tensor
    slots: slice | Tensor
    spans: tuple[Span, ...]
    logit_rows: Tensor
    steps: tuple[slice | Tensor, slice | Tensor] | None = None
    prompts: Tensor | None = None
    fresh_states: tuple[int, ...] = ()
    pages: Pages | None = None


def build_batch(
    parts: Sequence[Part | tuple[Sequence[int], int, Sequence[int], int]],
    block_size: int,
    device: torch.device,
) -> Batch:
    """Lay the parts of a step out as one batch on ``device``.

    Every part needs a token and blocks for ``context + len(tokens)`` tokens; more are ignored.
    """
    ids: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    spans: list[Span] = []
    wanted: list[int] = []
    for part in parts:
        tokens, context, blocks, want_logits, state = Part(*part)
        length, total = len(tokens), context + len(tokens)
        table = block_table(tokens, total, blocks, block_size)
        where = cache_slots(table, total, block_size, device)
        spans.append(Span(len(ids), length, context, table, where, state))
        ids += tokens
        if length == 1:  # the rule, and so faster
            positions.append(context)
            slots.append(table[-1] * block_size + context % block_size)
        else:
            new = range(context, total)
            positions += new
            slots += [table[i // block_size] * block_size + i % block_size for i in new]
        wanted += range(len(ids) - want_logits, len(ids))
    return Batch(
        index(ids, device),
        index(positions, device),
        neighbours_or_index(slots, device),
        tuple(spans),
        index(wanted, device),
        steps=single_steps(spans, device),
        prompts=several_tokens(spans, device) if len(spans) < len(ids) else None,
        fresh_states=tuple(span.state for span in spans if not span.context),
    )


def index(numbers: list[int], device: torch.device) -> Tensor:
    """Numbers as an int64 tensor; by way of numpy, which takes lists apart twice as fast."""
    return torch.from_numpy(np.array(numbers, np.int64)).to(device)


def block_table(
    tokens: Sequence[int], total: int, blocks: Sequence[int], block_size: int
) -> list[int]:
    """The blocks that ``total`` tokens of a sequence take, the new ``tokens`` among them.

    Raises ValueError if there are no tokens, or not so many blocks.
    """
    table = list(blocks[: -(-total // block_size)])
    if not tokens or len(table) * block_size < total:
        raise ValueError(
            f"{len(tokens)} tokens after {total - len(tokens)} do not fit blocks {table}"
        )
    return table


def single_steps(
    spans: Sequence[Span], device: torch.device
) -> tuple[slice | Tensor, slice | Tensor] | None:
    """The rows and the state slots of spans that have one token each; None if there are none."""
    single = [span for span in spans if span.length == 1]
    if not single:
        return None
    rows = neighbours_or_index([span.start for span in single], device)
    return rows, neighbours_or_index([span.state for span in single], device)


def several_tokens(spans: Sequence[Span], device: torch.device) -> Tensor:
    """First rows, state slots and lengths, int64 [3, P], of the spans of more than one token."""
    longer = [(span.start, span.state, span.length) for span in spans if span.length > 1]
    columns = torch.tensor(longer, dtype=torch.int64).view(-1, 3)
    return moved(columns.t().contiguous(), device)


def neighbours_or_index(slots: list[int], device: torch.device) -> slice | Tensor:
    """The slots as a slice if each follows the one before, else as an index."""
    first = slots[0] if slots else 0
    if slots == list(range(first, first + len(slots))):
        return slice(first, first + len(slots))
    return index(slots, device)


def cache_slots(
    table: list[int], total: int, block_size: int, device: torch.device
) -> slice | Tensor:
    """Where the first ``total`` tokens of a block table lie: a slice if it is consecutive."""
    first = table[0]
    if table == list(range(first, first + len(table))):
        return slice(first * block_size, first * block_size + total)
    starts = torch.tensor(table, dtype=torch.int64)[:, None] * block_size
    return (starts + torch.arange(block_size)).flatten()[:total].to(device)
