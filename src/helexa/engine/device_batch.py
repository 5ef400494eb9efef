"""A step as kernels on a GPU want it: all that they need to know of it in one copy.

The copy is made from pinned memory and not waited for. Torch's allocator of such memory keeps it
from being used again before it was read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from helexa.engine.batch import Batch, Part, Span, block_table
from helexa.engine.kernels.decoding import Pages

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

PADDING = -1
"""The slot of a row that stands for no sequence: kernels read and write nothing for it."""
ALIGNMENT = 4
LEAST_PAGES, PAGES_GROWTH = 16, 4


class Layout(NamedTuple):
    """What there is room for: tokens, sequences, and the pages of each sequence's block table."""

    tokens: int
    sequences: int
    pages: int

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many int32 each of the `Fields` takes."""
        return (
            *(2 * self.tokens,) * 3,
            *(2 * self.sequences,) * 3,
            2 * self.tokens,
            self.sequences,
            self.sequences * self.pages,
        )

    @property
    def numbers(self) -> int:
        """How many int32 all of it takes."""
        return sum(map(aligned, self.sizes))


def aligned(numbers: int) -> int:
    """So many int32 and up to three more: kernels are compiled for fields that begin so."""
    return -(-numbers // ALIGNMENT) * ALIGNMENT


def table_pages(pages: int) -> int:
    """The pages of a block table that has room for so many: one of a few sizes.

    How kernels divide their work depends on it, as does whether a recorded step can be replayed.
    """
    size = LEAST_PAGES
    while size < pages:
        size *= PAGES_GROWTH
    return size


class Fields(NamedTuple):
    """The parts of a step's memory, of T tokens and S sequences.

    Tokens have ids, positions and slots [T]; sequences, those with one new token before the others,
    their first row, the slot of their state, how many new tokens they have, their length with these
    and a block table [S, M]. ``wanted`` [T] begins with the rows whose logits are wanted. Lengths
    and tables are int32, the rest is int64.
    """

    ids: Tensor
    positions: Tensor
    slots: Tensor
    rows: Tensor
    states: Tensor
    counts: Tensor
    wanted: Tensor
    lengths: Tensor
    tables: Tensor


def fields(memory: Tensor, layout: Layout) -> Fields:
    """The parts of int32 memory [layout.numbers] as views."""
    places = torch.split(memory, [aligned(size) for size in layout.sizes])
    exact = [part[:size] for part, size in zip(places, layout.sizes, strict=True)]
    *whole, lengths, tables = exact
    ids, positions, slots, rows, states, counts, wanted = (p.view(torch.int64) for p in whole)
    tables = tables.view(layout.sequences, layout.pages)
    return Fields(ids, positions, slots, rows, states, counts, wanted, lengths, tables)


def staged(parts: Sequence[Part], layout: Layout, size: int, device: torch.device) -> Tensor:
    """The memory of a step, still on the host: int32 [layout.numbers].

    Rows of tokens and sequences that no part takes are padding: token 0 in no slot, of length 0.
    Raises ValueError as `build_batch` does.
    """
    memory = torch.empty(layout.numbers, dtype=torch.int32, pin_memory=device.type == "cuda")
    host = [field.numpy() for field in fields(memory, layout)]
    ids, positions, slots, rows, states, counts, wanted, lengths, tables = host
    for array, value in zip(host[:8], (0, 0, PADDING, 0, PADDING, 0, 0, 0), strict=True):
        array.fill(value)
    places = {at: place for place, at in enumerate(singles_first(parts))}
    start = count = 0
    for at, (tokens, context, blocks, want_logits, state) in enumerate(parts):
        total, end, place = context + len(tokens), start + len(tokens), places[at]
        table = block_table(tokens, total, blocks, size)
        tables[place, : len(table)] = table
        rows[place], states[place], counts[place] = start, state, len(tokens)
        lengths[place] = total
        if len(tokens) == 1:  # plain numbers: faster than arrays of one
            ids[start], positions[start] = tokens[0], context
            slots[start] = table[context // size] * size + context % size
        else:
            new = np.arange(context, total)
            ids[start:end], positions[start:end] = tokens, new
            slots[start:end] = tables[place, new // size].astype(np.int64) * size + new % size
        wanted[count : count + want_logits] = np.arange(end - want_logits, end)
        count, start = count + want_logits, end
    return memory


def singles_first(parts: Sequence[Part]) -> list[int]:
    """The numbers of the parts, those of a single token before the others."""
    return sorted(range(len(parts)), key=lambda at: len(parts[at].tokens) > 1)


def build_device_batch(
    parts: Sequence[Part | tuple[Sequence[int], int, Sequence[int], int]],
    block_size: int,
    device: torch.device,
    *,
    paged: bool = True,
) -> Batch:
    """`build_batch`, without the host waiting for the device.

    ``paged``: single tokens are attended for by a kernel, as the batch's pages and not as spans.
    """
    works = [Part(*part) for part in parts]
    totals = [work.context + len(work.tokens) for work in works]
    single = sum(len(work.tokens) == 1 for work in works)
    pages = table_pages(max(-(-total // block_size) for total in totals))
    layout = Layout(sum(len(work.tokens) for work in works), len(works), pages)
    memory = staged(works, layout, block_size, device).to(device, non_blocking=True)
    made = fields(memory, layout)
    places = {at: place for place, at in enumerate(singles_first(works))}
    spans, start = [], 0
    for at, (work, total) in enumerate(zip(works, totals, strict=True)):
        if len(work.tokens) > 1 or not paged:
            table = block_table(work.tokens, total, work.blocks, block_size)
            where = gathered(table, made.tables[places[at]], total, block_size)
            length = len(work.tokens)
            spans.append(Span(start, length, work.context, table, where, work.state))
        start += len(work.tokens)
    tables = made.tables[:single]
    return Batch(
        made.ids,
        made.positions,
        made.slots,
        tuple(spans),
        made.wanted[: sum(work.want_logits for work in works)],
        steps=(step_rows(works, made.rows[:single]), made.states[:single]) if single else None,
        prompts=several_tokens(made, single) if single < len(works) else None,
        fresh_states=tuple(work.state for work in works if not work.context),
        pages=Pages(tables, made.lengths[:single], block_size) if paged and single else None,
    )


def several_tokens(made: Fields, single: int) -> Tensor:
    """First rows, state slots and lengths, int64 [3, P], of sequences behind the single ones."""
    rows, states = made.rows[single:], made.states[single:]
    return torch.stack((rows, states, made.counts[single:]))


def gathered(table: list[int], pages: Tensor, total: int, size: int) -> slice | Tensor:
    """`cache_slots` of a table that is on the device, too, as ``pages`` [M]."""
    if table == list(range(table[0], table[0] + len(table))):
        return slice(table[0] * size, table[0] * size + total)
    inside = torch.arange(size, device=pages.device)
    starts = pages[: len(table), None].long() * size
    return (starts + inside).flatten()[:total]


def step_rows(parts: Sequence[Part], rows: Tensor) -> slice | Tensor:
    """Where the parts of one token are in a batch: a slice if they are the first, else ``rows``."""
    first = next((at for at, part in enumerate(parts) if len(part.tokens) > 1), len(parts))
    return slice(0, len(rows)) if first == len(rows) else rows
