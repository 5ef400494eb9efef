"""Tables of embeddings that stay in stored blocks: looked up by torch and by a kernel."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import pytest
import torch

from helexa.engine.kernels.stored_matrix import has_triton
from helexa.engine.layers.embedding import Embedding
from helexa.engine.loading import resolve_numerics
from tests.engine.kernels.stored import DEVICE, made

if TYPE_CHECKING:
    from torch import Tensor

    from helexa.engine.checkpoint.weights import Weights

from helexa.engine.quant.blocks.types import BLOCK_TYPES

ROWS, SIZE = 9, 512


@dataclass(frozen=True)
class Stored:
    """As much of a place in a checkpoint as an embedding asks."""

    kind: str
    table: Tensor

    def dtype_of(self, name: str) -> str:
        return {"weight": self.kind}[name]

    def stored(self, name: str, shape: tuple[int, int]) -> Tensor:
        assert (name, shape) == ("weight", (ROWS, SIZE))
        return self.table


@pytest.mark.parametrize("fused", [False, True], ids=["torch", "kernel"])
@pytest.mark.parametrize("kind", ["Q4_K", "Q6_K", "Q8_0"])
def test_rows_of_stored_tables(kind: str, fused: bool) -> None:
    if fused and not has_triton():
        pytest.skip("there is no triton for this machine")
    table = made(BLOCK_TYPES[kind], ROWS, SIZE, 1)
    numerics = replace(resolve_numerics("float32", DEVICE, False), fused_ops=fused)
    embed = Embedding(ROWS, SIZE, numerics)
    embed.load(cast("Weights", Stored(kind, table)), tied=False)
    assert (embed.by_kernel is not None) == fused
    ids = torch.tensor([8, 0, 3, 3], device=DEVICE)
    expected = BLOCK_TYPES[kind].matrix(table)[ids.cpu()]
    found = embed(ids)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-6, atol=1e-7)
    assert embed.nbytes == table.nbytes
