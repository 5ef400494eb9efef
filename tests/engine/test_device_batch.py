"""Steps laid out for kernels on a GPU: the same as for a CPU, in one piece of memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from helexa.engine.batch import Part, build_batch
from helexa.engine.cache.kv import KVCache
from helexa.engine.device_batch import (
    LEAST_PAGES,
    PADDING,
    Layout,
    build_device_batch,
    fields,
    staged,
    table_pages,
)
from helexa.engine.models.model import Model
from tests.engine.models.families import Family, prompt, worst
from tests.engine.models.interpreted import FAMILIES, interpreted

CPU = torch.device("cpu")


def indices(where: slice | Tensor) -> list[int]:
    return list(range(where.start, where.stop)) if isinstance(where, slice) else where.tolist()


@st.composite
def parts_of_steps(draw: st.DrawFn) -> list[Part]:
    """Sequences of any lengths, their pages anywhere."""
    free = draw(st.permutations(range(40)))
    parts = []
    for state in range(draw(st.integers(1, 5))):
        tokens = draw(st.lists(st.integers(0, 99), min_size=1, max_size=6))
        context = draw(st.integers(0, 20))
        count = -(-(len(tokens) + context) // 4)
        blocks, free = free[:count], free[count:]
        wanted = draw(st.integers(0, len(tokens)))
        parts.append(Part(tokens, context, blocks, wanted, state))
    return parts


@given(parts_of_steps(), st.booleans())
def test_it_is_the_same_batch(parts: list[Part], paged: bool) -> None:
    expected = build_batch(parts, 4, CPU)
    ours = build_device_batch(parts, 4, CPU, paged=paged)
    for name in ("token_ids", "positions", "logit_rows"):
        assert torch.equal(getattr(ours, name), getattr(expected, name)), name
    assert isinstance(ours.slots, Tensor)
    assert ours.slots.tolist() == indices(expected.slots)
    assert ours.fresh_states == expected.fresh_states
    assert (ours.prompts is None) == (expected.prompts is None)
    if ours.prompts is not None and expected.prompts is not None:
        assert torch.equal(ours.prompts, expected.prompts)
    left = [span for span in expected.spans if span.length > 1 or not paged]
    assert len(left) == len(ours.spans)
    for one, other in zip(ours.spans, left, strict=True):
        assert indices(one.slots) == indices(other.slots)
        assert (one.rows, one.context, one.state) == (other.rows, other.context, other.state)
    assert (ours.steps is None) == (expected.steps is None)
    if ours.steps is None or expected.steps is None:
        assert ours.pages is None
        return
    for mine, theirs in zip(ours.steps, expected.steps, strict=True):
        assert indices(mine) == indices(theirs)
    assert isinstance(ours.steps[1], Tensor)
    assert (ours.pages is not None) is paged
    if ours.pages is not None:
        single = [span for span in expected.spans if span.length == 1]
        assert ours.pages.lengths.tolist() == [span.context + 1 for span in single]
        for table, span in zip(ours.pages.tables.tolist(), single, strict=True):
            assert table[: len(span.blocks)] == list(span.blocks)


def test_rows_without_a_sequence_are_padding() -> None:
    layout = Layout(4, 4, 3)
    memory = staged([Part([9], 6, [5, 2], True, 1)], layout, 4, CPU)
    made = fields(memory, layout)
    assert made.ids.tolist() == [9, 0, 0, 0]
    assert made.positions.tolist() == [6, 0, 0, 0]
    assert made.slots.tolist() == [10, *[PADDING] * 3]
    assert made.states.tolist() == [1, *[PADDING] * 3]
    assert made.lengths.tolist() == [7, 0, 0, 0]
    assert made.tables[0, :2].tolist() == [5, 2]


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
def test_fields_do_not_overlap_and_are_aligned(tokens: int, sequences: int, pages: int) -> None:
    layout = Layout(tokens, sequences, pages)
    made = fields(torch.zeros(layout.numbers, dtype=torch.int32), layout)
    for number, field in enumerate(made):
        field.fill_(number + 1)
        assert (field.data_ptr() - made[0].data_ptr()) % 16 == 0
    for number, field in enumerate(made):
        assert (field == number + 1).all()


def test_tables_have_few_sizes() -> None:
    sizes = {table_pages(pages) for pages in range(1, 2600)}
    assert len(sizes) == 5
    assert all(table_pages(pages) >= pages for pages in range(1, 2600))
    assert table_pages(1) == LEAST_PAGES


@pytest.mark.parametrize("part", [([], 3, [0], True), ([1], 4, [0], True)])
def test_a_part_without_tokens_or_room_is_refused(part: tuple) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        build_device_batch([part], 4, CPU)


LOGITS = {"hybrid": 1e-3, "hybrid moe": 1e-3}
"""The largest difference to the reference, where it is not 1e-4."""


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    pytest.importorskip("triton", reason="there is no triton for this machine")
    return FAMILIES[request.param]


def in_steps(model: Model, cache: KVCache, ids: list[int], others: list[int]) -> Iterator[Tensor]:
    """Logits of two sequences: chunks of one beside single tokens of the other, pages scattered."""
    blocks, more = [5, 0, 3, 1], [2, 6, 4, 7]
    plan = [((0, 11), None), ((11, 12), (0, 9)), ((12, 13), (9, 10)), ((13, 20), (10, 11))]
    for one, two in [*plan, ((20, 21), None)]:
        parts = [Part(ids[one[0] : one[1]], one[0], blocks, True, 1)]
        if two is not None:
            parts.append(Part(others[two[0] : two[1]], two[0], more, True, 0))
        batch = model.batch(parts, cache.block_size)
        yield model.logits(model(batch, cache).index_select(0, batch.logit_rows))


@pytest.mark.parametrize("disabled", [(), ("flash_decode",), ("fused_ops", "gdn_fused")])
@torch.inference_mode()
def test_a_model_with_kernels_is_the_reference(
    family: Family, disabled: tuple[str, ...], tmp_path: Path
) -> None:
    reference = family.save(tmp_path)
    model = interpreted(tmp_path, *disabled)
    assert model.numerics.paged_decode is ("flash_decode" not in disabled)
    assert model.numerics.fused_ops is ("fused_ops" not in disabled)
    ids, others = prompt(21), prompt(31)[11:]
    cache = model.new_cache(8, 8, states=2)
    cache.memory.fill_(float("nan"))  # what is read must have been written
    first, second = reference.logits(ids), reference.logits(others)
    expected = [
        [first[10]],
        [first[11], second[8]],
        [first[12], second[9]],
        [first[19], second[10]],
        [first[20]],
    ]
    allowed = next((LOGITS[name] for name in LOGITS if FAMILIES[name] is family), 1e-4)
    for ours, rows in zip(in_steps(model, cache, ids, others), expected, strict=True):
        assert worst(ours.cpu(), torch.stack(rows)) < allowed
