"""What products with quantised weights take on a GPU, beside expanding the weights with torch.

    python -m benchmarks.gpu_products                 # all formats, some minutes
    python -m benchmarks.gpu_products --formats Q4_K,fp8 --json -

Each product finds its weights in the GPU's memory: the caches are overwritten before it. A product
of one row cannot take less time than reading the weight's bytes once; the column `of copying` says
how near it comes to the speed at which this GPU copies memory. Needs a CUDA device.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from benchmarks import readings
from helexa.engine.kernels.experts import Expert, experts_grouped
from helexa.engine.loading import resolve_numerics
from helexa.engine.quant.blocks.types import BLOCK_TYPES
from helexa.engine.quant.blocks.weight import BlockWeight
from helexa.engine.quant.groups import Groups, group_weight
from helexa.engine.quant.on_device import DeviceWeight, Storable, stored_experts, with_kernels
from helexa.engine.quant.scaled import Scaled, scaled_weight

BLOCKS = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K")
FORMATS = (*BLOCKS, "fp8", "int4", "int8")
SHAPES = ((4096, 4096), (12288, 4096), (4096, 12288))
ROWS = (1, 4, 16, 256)
EXPERTS, CHOSEN, HIDDEN, SIZE = 128, 8, 2048, 768
GROUP = 128
FLUSH_BYTES = 2**28
COPY_BYTES = 2**30
ROUNDS = 25


@dataclass(frozen=True, slots=True)
class Reading:
    """Medians; ``gb_s`` counts the weights' own bytes, each matrix that is read once."""

    what: str
    format: str
    rows: int
    us: float
    gb_s: float
    of_copying: float
    expanded_us: float


class Clock:
    """Times work on the GPU, with cold caches."""

    def __init__(self) -> None:
        self.flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")

    def __call__(self, work: Callable[[], object], rounds: int = ROUNDS) -> float:
        """The median in µs, of so many rounds after two that compile and claim memory."""
        taken = []
        for _ in range(rounds + 2):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            self.flush.zero_()
            begin.record()
            work()
            end.record()
            end.synchronize()
            taken.append(1000 * begin.elapsed_time(end))
        return statistics.median(taken[2:])


def weight(format: str, rows: int, columns: int) -> DeviceWeight:
    """A matrix [rows, columns] on the GPU: few different rows, over and over."""
    torch.manual_seed(0)
    numerics = resolve_numerics("auto", torch.device("cuda"), True)
    few = torch.randn(64, columns) / columns**0.5
    if format in BLOCKS:
        type = BLOCK_TYPES[format]
        blocks = type.rows(few).cuda().repeat(rows // 64, 1)
        made: object = with_kernels(BlockWeight(type, blocks, numerics.plain.scratch))
    elif format == "fp8":
        values = (few * 100).to(torch.float8_e4m3fn).view(torch.uint8).repeat(rows // 64, 1)
        scale = torch.full((rows // 128, columns // 128), 0.01)
        part = Scaled("benchmark", values.view(torch.float8_e4m3fn), scale, (128, 128))
        made = scaled_weight([part], numerics)
    else:
        bits = int(format.removeprefix("int"))
        codes = torch.randint(0, 2**bits, (64, columns), dtype=torch.uint8).repeat(rows // 64, 1)
        scale = torch.full((columns // GROUP, rows), 0.01).half()
        zero = torch.full((columns // GROUP, rows), 2 ** (bits - 1), dtype=torch.uint8)
        read = codes.__getitem__
        stored = Groups(
            "benchmark", rows, bits, lambda a, b: read(slice(a, b)), scale, zero, 0, GROUP
        )
        made = group_weight([stored], columns, numerics)
    assert isinstance(made, DeviceWeight), "there is no triton beside this torch"
    return made


def products(format: str, clock: Clock, copied: float, dtype: torch.dtype) -> Iterator[Reading]:
    """Every shape and number of rows."""
    for rows, columns in SHAPES:
        ours = weight(format, rows, columns)
        for count in ROWS:
            x = torch.randn(count, columns, device="cuda", dtype=dtype)
            us = clock(lambda x=x, ours=ours: ours.matmul(x))
            expanded = clock(lambda x=x, ours=ours: ours.weight.matmul(x), 5)
            speed = ours.nbytes / us / 1000
            name = f"{rows}x{columns}"
            yield Reading(name, format, count, us, speed, speed / copied, expanded)


def copy_of(ours: DeviceWeight) -> DeviceWeight:
    """The same weight in memory of its own, as experts are."""
    changes = {}
    for name in ("blocks", "tensor", "scale", "codes", "zero"):
        if isinstance(value := getattr(ours.weight, name, None), Tensor):
            changes[name] = value.clone(memory_format=torch.preserve_format)
    copied: Storable = replace(ours.weight, **changes)
    made = with_kernels(copied)
    assert isinstance(made, DeviceWeight)
    return made


def experts(format: str, clock: Clock, copied: float, dtype: torch.dtype) -> Iterator[Reading]:
    """A layer of experts, each token choosing at random."""
    from helexa.engine.kernels.stored_experts_triton import experts_as_stored

    up, down = weight(format, 2 * SIZE, HIDDEN), weight(format, HIDDEN, SIZE)
    all_of_them = [Expert(copy_of(up), copy_of(down)) for _ in range(EXPERTS)]
    plain = [Expert(e.gate_up.weight, e.down.weight) for e in all_of_them]
    stored = stored_experts(all_of_them)
    assert stored is not None
    for count in ROWS:
        x = torch.randn(count, HIDDEN, device="cuda", dtype=dtype)
        shares, chosen = torch.randn(count, EXPERTS, device="cuda").softmax(-1).topk(CHOSEN)
        asked = (x, chosen, shares.to(dtype))
        us = clock(lambda asked=asked: experts_as_stored(*asked, stored))
        expanded = clock(lambda asked=asked: experts_grouped(*asked, plain), 5)
        speed = len(chosen.unique()) * all_of_them[0].nbytes / us / 1000
        yield Reading("experts", format, count, us, speed, speed / copied, expanded)


def options() -> argparse.ArgumentParser:
    parser = readings.arguments(__doc__)
    parser.add_argument("--formats", default=",".join(FORMATS))
    return parser


def main() -> int:
    args = options().parse_args()
    if not torch.cuda.is_available():
        print("benchmarks.gpu_products needs a CUDA device, and torch finds none", file=sys.stderr)
        return 1
    clock, dtype = Clock(), resolve_numerics("auto", torch.device("cuda"), True).activations
    source = torch.empty(COPY_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    copied = 2 * COPY_BYTES / clock(lambda: target.copy_(source)) / 1000
    head = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "copy_gb_s": copied}
    print(head, file=sys.stderr)
    print("what          format   rows       µs    GB/s  of copying  expanded, µs", file=sys.stderr)
    found = []
    for format in args.formats.split(","):
        for measure in (products, experts):
            for r in measure(format, clock, copied, dtype):
                found.append(asdict(r))
                line = f"{r.what:13} {r.format:6} {r.rows:6} {r.us:8.1f} {r.gb_s:7.0f}"
                print(f"{line} {r.of_copying:11.2f} {r.expanded_us:13.1f}", file=sys.stderr)
    readings.write(args.json, {**readings.about(), **head, "readings": found})
    return 0


if __name__ == "__main__":
    sys.exit(main())
