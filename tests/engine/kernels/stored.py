"""Quantised matrices for tests of the kernels that read them as they are stored."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from helexa.engine.kernels.matvec import Scratch
from helexa.engine.loading import resolve_numerics
from helexa.engine.quant.blocks.types import BLOCK_TYPES, BlockType
from helexa.engine.quant.blocks.weight import BlockWeight
from helexa.engine.quant.groups import GroupWeight, group_weight
from helexa.engine.quant.on_device import Storable
from helexa.engine.quant.scaled import ScaledWeight
from tests.engine.quant.test_groups import stored as drawn_groups

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CPU = torch.device("cpu")


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blocks(name: str, rows: int, columns: int, seed: int = 0) -> BlockWeight:
    """A random matrix of this block format."""
    type = BLOCK_TYPES[name]
    return BlockWeight(type, made(type, rows, columns, seed).to(DEVICE), Scratch())


def made(type: BlockType, rows: int, columns: int, seed: int) -> Tensor:
    """Blocks; of types that cannot be made, random ones with scales of about 0.001."""
    if type.quantise is not None:
        return type.rows(torch.randn(rows, columns, generator=random(seed)) / columns**0.5)
    shape = (rows, columns // type.elements, type.nbytes)
    blocks = torch.randint(0, 256, shape, generator=random(seed), dtype=torch.uint8)
    for at in {"Q2_K": (80, 82), "Q3_K": (108,)}[type.name]:
        blocks[..., at + 1] = 0x14
    return blocks.flatten(1)


def fp8(rows: int, columns: int, block: tuple[int, int], seed: int = 0) -> ScaledWeight:
    """Every float8 number there is, over and over, times random scales."""
    every = torch.arange(256)[torch.arange(256) % 128 != 127].to(torch.uint8)
    picked = torch.randint(0, len(every), (rows, columns), generator=random(seed))
    counts = -(-rows // block[0]), -(-columns // block[1])
    scale = torch.rand(counts, generator=random(seed)) / (100 * columns**0.5)
    tensor = every[picked].view(torch.float8_e4m3fn).to(DEVICE)
    return ScaledWeight(tensor, scale.to(DEVICE), block, Scratch(), True, False)


def groups(
    rows: int,
    columns: int,
    group: int,
    *,
    bits: int = 4,
    index: Tensor | None = None,
    seed: int = 1,
) -> GroupWeight:
    """Integers in groups, each with a zero of its own."""
    part, _ = drawn_groups(rows, columns, group, bits=bits, index=index, seed=seed)
    part = dataclasses.replace(part, scale=part.scale / (8 * columns**0.5))
    weight = group_weight([part], columns, resolve_numerics("float32", CPU, False))
    assert isinstance(weight, GroupWeight)
    held = {
        name: value.to(DEVICE)
        for name in ("codes", "scale", "zero", "order", "groups")
        if (value := getattr(weight, name)) is not None
    }
    return dataclasses.replace(weight, **held)


def without_zeros(weight: GroupWeight) -> GroupWeight:
    """Its symmetric twin."""
    return dataclasses.replace(weight, zero=None, shift=8)


SHUFFLED = torch.randperm(160, generator=random(3))
WEIGHTS: dict[str, Callable[[], Storable]] = {
    **{
        f"{name} {rows}x{columns}": lambda n=name, r=rows, c=columns: blocks(n, r, c)
        for name in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
        for rows, columns in ((37, 96), (5, 512))
    },
    **{
        f"{name} {rows}x{columns}": lambda n=name, r=rows, c=columns: blocks(n, r, c)
        for name in ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
        for rows, columns in ((37, 256), (5, 768))
    },
    "fp8 blocks": lambda: fp8(37, 256, (16, 128)),
    "fp8 small blocks": lambda: fp8(21, 300, (7, 33)),
    "fp8 rows": lambda: fp8(37, 200, (1, 200)),
    "4 bits in groups of 128": lambda: groups(70, 256, 128),
    "4 bits in groups of 32": lambda: groups(37, 160, 32),
    "4 bits in one group": lambda: groups(37, 160, 160),
    "4 bits in ragged groups": lambda: groups(37, 100, 48),
    "4 bits, symmetric": lambda: without_zeros(groups(70, 96, 32)),
    "3 bits": lambda: groups(37, 64, 32, bits=3),
    "8 bits": lambda: groups(70, 96, 32, bits=8),
    "4 bits in an order": lambda: groups(37, 160, 32, index=SHUFFLED // 32),
    "4 bits in uneven groups": lambda: groups(37, 160, 32, index=SHUFFLED**2 // 5121),
}
"""Every format in shapes that fill no tile."""
