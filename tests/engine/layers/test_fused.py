"""Layers with as few kernels as they can be put in, where their matrices are stored in blocks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
import torch

from helexa.engine.kernels.matvec import Scratch
from helexa.engine.layers.attention import Attention
from helexa.engine.layers.mlp import GatedMLP
from helexa.engine.quant.blocks.types import BLOCK_TYPES
from helexa.engine.quant.blocks.weight import BlockWeight
from helexa.engine.quant.on_device import DeviceWeight, with_kernels
from tests.engine.models.families import Family
from tests.engine.models.interpreted import FEW, interpreted

if TYPE_CHECKING:
    from helexa.engine.layers.decoder import DecoderLayer
    from helexa.engine.layers.linear import Linear
    from helexa.engine.models.model import Model

pytest.importorskip("triton", reason="there is no triton for this machine")

from helexa.engine.kernels import products_triton

FAMILY = Family("fused", fields={"num_hidden_layers": 2, "intermediate_size": 256, **FEW})


def parts(model: Model) -> dict[str, list[Linear]]:
    """The layers behind which something is added to the residual stream, and those before them."""
    layers = [cast("DecoderLayer", layer) for layer in cast("torch.nn.ModuleList", model.layers)]
    mixers = [cast("Attention", layer.mixer) for layer in layers]
    mlps = [cast("GatedMLP", layer.mlp) for layer in layers]
    return {
        "out": [mixer.out for mixer in mixers],
        "down": [mlp.down for mlp in mlps],
        "before": [*(mixer.qkv for mixer in mixers), *(mlp.gate_up for mlp in mlps)],
    }


@pytest.mark.parametrize("stored", [("down",), ("out", "down"), ("out", "down", "before")], ids=str)
def test_splits_are_added_up_by_whoever_comes_next(
    stored: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the next is a kernel of single rows that knows nothing of splits."""
    FAMILY.save(tmp_path)
    model = interpreted(tmp_path)
    device, type = model.device, BLOCK_TYPES["Q8_0"]
    for name in stored:
        for linear in parts(model)[name]:
            blocks = type.rows(linear.weight.matrix().cpu().float()).to(device)
            linear.weight = with_kernels(BlockWeight(type, blocks, Scratch()))
            assert isinstance(linear.weight, DeviceWeight)
    monkeypatch.setattr(products_triton, "processors", lambda device: 132)
    monkeypatch.setattr(products_triton, "LEAST_STEPS", 1)
    assert parts(model)["down"][0].splits(torch.zeros(1, 256, device=device)).shape == (2, 1, 64)
    cache = model.new_cache(tokens=16)
    ids = [5, 9, 2, 14]
    found = [model.compute_logits(ids[:3], cache), model.compute_logits(ids[3:], cache, context=3)]
    for name in stored:
        for linear in parts(model)[name]:
            plain = cast("DeviceWeight", linear.weight).weight
            linear.weight = plain
    whole = replace(model.numerics, fused_rows=False)
    for layer in cast("torch.nn.ModuleList", model.layers):
        layer.numerics = whole
    cache = model.new_cache(tokens=16)
    expected = [
        model.compute_logits(ids[:3], cache),
        model.compute_logits(ids[3:], cache, context=3),
    ]
    torch.testing.assert_close(torch.cat(found), torch.cat(expected), rtol=1e-4, atol=1e-4)
