"""The counted bytes of a GPU's decode step: by formula, and by what kernels really touch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="there is no triton for this machine")

from triton.runtime import interpreter

from benchmarks.counted import Launch, counted, touched
from benchmarks.gpu_bytes import (
    WAYS,
    choices,
    choices_table,
    choosing,
    empty_model,
    options,
    step,
    unavoidable,
)
from benchmarks.shapes import SHAPES
from helexa.engine.kernels.angles_triton import angles_on_device
from helexa.engine.kernels.choosing_triton import Drawn, best_on_device, draw_by_kernel
from helexa.engine.kernels.decoding import Pages
from helexa.engine.kernels.decoding_triton import paged_decode
from helexa.engine.kernels.joining_triton import joined
from helexa.engine.kernels.look_up_triton import look_up
from helexa.engine.kernels.norm_triton import add_rms_norm_on_device
from helexa.engine.kernels.one_row_triton import added_product, normed_product
from helexa.engine.kernels.placing import Projected
from helexa.engine.kernels.placing_triton import place_on_device
from helexa.engine.kernels.products_triton import product
from helexa.engine.kernels.silu_mul_triton import silu_mul_on_device
from helexa.engine.kernels.stored_matrix import StoredMatrix
from helexa.engine.ranking import cut

interpreted = pytest.mark.skipif(
    torch.cuda.is_available(), reason="loads and stores are seen by triton's interpreter alone"
)
SMALL = SHAPES["small"]
HIDDEN, MIDDLE, LAYERS = 256, 768, 4
QKV, HEADS, DIM, GROUPS = 512, 4, 64, 2
CONTEXT = 20


def weights_of_a_layer() -> int:
    return 2 * (QKV * HIDDEN + HIDDEN * HEADS * DIM + 3 * MIDDLE * HIDDEN)


def names(launches: list[Launch]) -> list[str]:
    return [launch.name for launch in launches]


def test_one_stream_by_formula() -> None:
    model = empty_model("small", None)
    launches = step(model, 1, CONTEXT, processors=132)
    layer = ["normed", "place", "split", "added", "normed", "added"]
    last = ["add_norm", "mm", "_to_copy"]
    assert names(launches) == ["index_select", "angles", *LAYERS * layer, *last]
    kept = 2 * GROUPS * DIM * 2 * (CONTEXT + 1)
    row = HIDDEN * 2
    gain = 4 * HIDDEN + 4
    angles = 2 * DIM * 4
    q, kv = HEADS * DIM * 2, GROUPS * DIM * 2
    expected = {
        "normed": (row + gain + 2 * QKV * HIDDEN) + 2 * QKV,
        "place": (2 * QKV + angles + 8 + 4 * (HEADS + GROUPS) * DIM + 4) + q + 2 * kv,
        "split": (q + kept + 4 * 2 + 4) + q,  # two pages
        "added": (q + 2 * HIDDEN * HEADS * DIM + row) + row,
    }
    for at, name in enumerate(layer[:4], 2):
        assert (launches[at].name, launches[at].moved) == (name, expected[name])
    down = (2 * MIDDLE + 2 * HIDDEN * MIDDLE + row) + row
    assert launches[7].moved == down


def test_a_step_moves_what_it_must_and_little_more() -> None:
    model = empty_model("small", None)
    output = 2 * SMALL["vocab_size"] * HIDDEN
    for streams in (1, 8):
        kept = 2 * 2 * LAYERS * GROUPS * DIM * streams * (CONTEXT + 2)
        needed = unavoidable(model, streams, CONTEXT)
        norms = sum(tensor.nbytes for tensor in model.buffers())
        assert needed == LAYERS * weights_of_a_layer() + output + norms + kept
        moved = sum(one.moved for one in step(model, streams, CONTEXT, 132))
        assert needed < moved < 1.3 * needed


def test_work_is_divided_as_for_the_gpu_that_is_named() -> None:
    model = empty_model("small", "Q4_K")
    many, one = (names(step(model, 1, 4096, processors)) for processors in (132, 1))
    assert many.count("combine") == LAYERS
    assert "combine" not in one
    assert many[0] == one[0] == "look_up"


def test_choosing_is_one_read() -> None:
    model = empty_model("small", None, 1)
    launches = choosing(model, 3)
    assert names(launches) == ["amax", "best", "to the host"]
    assert launches[-1].read == 2 * 3 * 8
    drawn = names(choosing(model, 3, WAYS["temperature"]))
    assert drawn == ["amax", "best", "_to_copy", "sums", "draw", "cat", "to the host"]


def test_kernels_choose_with_less_than_torch_does() -> None:
    found = list(choices("small", 4))
    assert [one.way for one in found[::2]] == list(WAYS)
    for torchs, ours in zip(found[::2], found[1::2], strict=True):
        assert (torchs.way, torchs.kernels) == (ours.way, not ours.kernels)
        assert ours.launches < torchs.launches
        assert ours.moved_bytes <= torchs.moved_bytes
    assert choices_table(found).count("\n") == len(WAYS) + 1


def test_the_options_have_a_default_for_everything() -> None:
    args = options().parse_args([])
    assert args.shapes == ["0.6b", "1.7b", "8b"]
    assert all(value is not None for name, value in vars(args).items() if name != "json")


def test_touched_bytes() -> None:
    table = torch.zeros(3, 4)
    assert touched(table, (table[:, :2], None, 7)) == 3 * 4 * 4 + 3 * 2 * 4
    assert touched(torch.zeros(1).expand(1000), torch.zeros(0)) == 4


@contextmanager
def seen(patch: pytest.MonkeyPatch) -> Iterator[dict[str, set[int]]]:
    """The addresses of bytes that interpreted kernels load and store."""
    found: dict[str, set[int]] = {"load": set(), "store": set()}
    builder = interpreter.InterpreterBuilder
    with patch.context() as scope:
        for kind, addresses in found.items():
            really = getattr(builder, f"create_masked_{kind}")

            def noting(
                self: Any,
                pointers: Any,
                *rest: Any,
                really: Any = really,
                kind: str = kind,
                addresses: set[int] = addresses,
            ) -> Any:
                mask = rest[0] if kind == "load" else rest[1]
                size = pointers.get_element_ty().primitive_bitwidth // 8
                for start in pointers.data[mask.data].tolist():
                    addresses.update(range(start, start + size))
                return really(self, pointers, *rest)

            scope.setattr(builder, f"create_masked_{kind}", noting)
        yield found


def kv_cache(slots: int) -> Tensor:
    return torch.randn(GROUPS, 2, slots, DIM).transpose(0, 1)


def places() -> None:
    y = torch.randn(3, (2 * HEADS + 2 * GROUPS) * DIM)
    angles = torch.ones(3, 1, DIM // 2), torch.ones(3, 1, DIM // 2)
    slots = torch.tensor([1, 5, 7])
    place_on_device(Projected(y, HEADS, GROUPS, True), None, angles, kv_cache(16), slots)


def normed_places() -> None:
    y = torch.randn(2, (HEADS + 2 * GROUPS) * DIM)
    norm = torch.ones(HEADS + GROUPS, DIM), torch.ones(())
    angles = torch.ones(2, 1, DIM), torch.ones(2, 1, DIM)
    place_on_device(
        Projected(y, HEADS, GROUPS, False), norm, angles, kv_cache(16), torch.tensor([9, 2])
    )


LENGTHS = [37, 100, 5]


def attends(parts: int, *, gated: bool = False) -> None:
    q = torch.randn(3, HEADS, DIM)
    tables = torch.arange(24, dtype=torch.int32).view(3, 8)
    pages = Pages(tables, torch.tensor(LENGTHS, dtype=torch.int32), 16)
    paged_decode(q, kv_cache(24 * 16), pages, torch.randn(3, HEADS, DIM) if gated else None, parts)


def norms() -> None:
    x, norm = torch.randn(3, 200), (torch.ones(200), torch.ones(()))
    add_rms_norm_on_device(x, torch.randn(3, 200), *norm)
    add_rms_norm_on_device(x, None, *norm)


def one_row() -> None:
    x, norm = torch.randn(1, 200), (torch.ones(200), torch.ones(()))
    normed_product(x, norm, torch.randn(30, 200))
    normed_product(x, norm, torch.randn(30, 200), gated=True)
    added_product(x, torch.randn(30, 200), torch.zeros(1, 30))


def stored() -> None:
    for name, nbytes in (("Q4_K", 144), ("Q6_K", 210)):
        blocks = torch.zeros(40, 2 * nbytes, dtype=torch.uint8)
        matrix = StoredMatrix(name, (blocks,), (40, 512))
        look_up(torch.tensor([3, 8]), matrix, torch.float32)
        for rows in (1, 3):
            product(torch.randn(rows, 512), matrix, splits=2 if rows == 1 else 1)


def chooses() -> None:
    rows, maxima = cut(torch.randn(3, 128 * 40))
    peaks, _ = best_on_device(rows, maxima)
    draw_by_kernel(rows, peaks, [Drawn(0, 1.0, 0.1, 0.5), Drawn(2, 1.0, 0.0, 0.9)])


WORK = {
    "norms": norms,
    "one row": one_row,
    "stored": stored,
    "choosing": chooses,
    "gated places": places,
    "places": normed_places,
    "attention": lambda: attends(1, gated=True),
    "split attention": lambda: attends(4, gated=True),
    "angles": lambda: angles_on_device(torch.tensor([3, 4]), torch.ones(32), 1.0) and None,
    "activation": lambda: silu_mul_on_device(torch.randn(2, 2 * 300)) is None,
    "sums": lambda: joined(torch.randn(3, 2, 30), torch.float16) is None,
}


@interpreted
@pytest.mark.parametrize("work", list(WORK))
def test_what_is_counted_is_what_kernels_touch(work: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Launch by launch, different bytes of memory: the interpreter sees each load and store."""
    totals: list[tuple[int, int]] = []
    kind = interpreter.InterpretedFunction
    really = kind.run

    def run(*args: Any, **options: Any) -> None:
        with seen(monkeypatch) as found:
            really(*args, **options)
        totals.append((len(found["load"]), len(found["store"])))

    monkeypatch.setattr(kind, "run", run)
    with counted(LENGTHS) as launches:
        WORK[work]()
    ours = [one for one in launches if one.name in KERNELS]
    assert ours
    assert [(one.name, one.read, one.written) for one in ours] == [
        (one.name, *total) for one, total in zip(ours, totals, strict=True)
    ]


KERNELS = frozenset(
    "add_norm added angles best combine draw joined look_up normed place product silu_mul "
    "split sums".split()
)
