"""The two layouts of the projections in front of the gated delta rule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from helexa.engine.checkpoint.weights import Weights
from helexa.engine.layers.delta import GatedDelta, Projected
from helexa.engine.loading import load_model, resolve_numerics
from tests.engine.layers.test_moe import Folder
from tests.engine.models.families import hybrid, prompt

HIDDEN, KEY_HEADS, VALUE_HEADS, DIM = 32, 2, 4, 8
EACH = VALUE_HEADS // KEY_HEADS
HEADS = {
    "linear_num_key_heads": KEY_HEADS,
    "linear_num_value_heads": VALUE_HEADS,
    "linear_key_head_dim": DIM,
    "linear_value_head_dim": DIM,
}
Parts = dict[str, Tensor]


def of_heads(count: int, rows: int, seed: int) -> Tensor:
    """Small whole numbers [count, rows, HIDDEN], whose sums are exact in any order."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-4, 5, (count, rows, HIDDEN), generator=generator).float()


def split(q: Tensor, k: Tensor, v: Tensor, z: Tensor, b: Tensor, a: Tensor) -> Parts:
    """Each kind by itself, head after head."""
    return {
        "in_proj_qkv.weight": torch.cat([part.flatten(0, 1) for part in (q, k, v)]),
        "in_proj_z.weight": z.flatten(0, 1),
        "in_proj_b.weight": b.flatten(0, 1),
        "in_proj_a.weight": a.flatten(0, 1),
    }


def fused(q: Tensor, k: Tensor, v: Tensor, z: Tensor, b: Tensor, a: Tensor) -> Parts:
    """For each key head its q and k, then v, then z of its value heads; and their b, then a."""
    inputs, gates = [], []
    for head in range(KEY_HEADS):
        own = range(head * EACH, (head + 1) * EACH)
        inputs += [q[head], k[head], *(v[i] for i in own), *(z[i] for i in own)]
        gates += [*(b[i] for i in own), *(a[i] for i in own)]
    return {"in_proj_qkvz.weight": torch.cat(inputs), "in_proj_ba.weight": torch.cat(gates)}


def projected(folder: Path, config: Any, parts: Parts, x: Tensor) -> Projected:
    """What a layer with these projections makes of x."""
    channels = (2 * KEY_HEADS + VALUE_HEADS) * DIM
    rest = {
        "conv1d.weight": torch.ones(channels, 1, config.delta.kernel),
        "dt_bias": torch.linspace(-1, 1, VALUE_HEADS),
        "A_log": torch.linspace(0, 1, VALUE_HEADS),
        "norm.weight": torch.ones(DIM),
        "out_proj.weight": torch.ones(HIDDEN, VALUE_HEADS * DIM),
    }
    folder.mkdir()
    save_file(parts | rest, folder / "model.safetensors")
    layer = GatedDelta(config, resolve_numerics("float32", torch.device("cpu"), False))
    checkpoint: Any = Folder(folder)
    weights = Weights(checkpoint, dtype=torch.float32)
    layer.load(weights)
    weights.finish()
    return layer.project(x)


@pytest.mark.parametrize("rows", [1, 5])
def test_e004_fused_projections_equal_split_ones(rows: int, tmp_path: Path) -> None:
    family = hybrid("qwen3_next", "qwen3_next", hidden_size=HIDDEN, **HEADS)
    config = load_model(family.save(tmp_path / "model").folder).config
    assert config.delta is not None
    assert (config.delta.key_heads, config.delta.value_heads) == (KEY_HEADS, VALUE_HEADS)
    heads = [KEY_HEADS, KEY_HEADS, *[VALUE_HEADS] * 4]
    sizes = [DIM] * 4 + [1, 1]
    parts = [
        of_heads(n, size, seed) for seed, (n, size) in enumerate(zip(heads, sizes, strict=True))
    ]
    x = of_heads(1, rows, 9)[0]
    ours = projected(tmp_path / "fused", config, fused(*parts), x)
    expected = projected(tmp_path / "split", config, split(*parts), x)
    for name, found, other in zip(Projected._fields, ours, expected, strict=True):
        assert torch.equal(found, other), name
    q, k, v, z, b, a = (x @ part.flatten(0, 1).T for part in parts)
    assert torch.equal(ours.qkv, torch.cat([q, k, v], -1))
    assert torch.equal(ours.z.flatten(1), z)
    assert torch.equal(ours.gates, torch.stack([b, a], 1))


def test_e004_a_model_in_either_layout_expects_the_same(tmp_path: Path) -> None:
    family = hybrid("qwen3_next", "qwen3_next", num_hidden_layers=4, **HEADS)
    reference = family.save(tmp_path / "fused")
    tensors: Parts = {}
    for name, tensor in reference.model.state_dict().items():
        at = name.partition("in_proj_")[0]
        if name.endswith("in_proj_qkvz.weight"):
            per_head = tensor.view(KEY_HEADS, (2 + 2 * EACH) * DIM, -1)
            q, k, v, z = per_head.split([DIM, DIM, EACH * DIM, EACH * DIM], 1)
            tensors[f"{at}in_proj_qkv.weight"] = torch.cat([p.flatten(0, 1) for p in (q, k, v)])
            tensors[f"{at}in_proj_z.weight"] = z.flatten(0, 1).contiguous()
        elif name.endswith("in_proj_ba.weight"):
            b, a = tensor.view(KEY_HEADS, 2 * EACH, -1).chunk(2, 1)
            tensors[f"{at}in_proj_b.weight"] = b.flatten(0, 1).contiguous()
            tensors[f"{at}in_proj_a.weight"] = a.flatten(0, 1).contiguous()
        else:
            tensors[name] = tensor.contiguous()
    (tmp_path / "split").mkdir()
    save_file(tensors, tmp_path / "split" / "model.safetensors")
    reference.model.config.save_pretrained(tmp_path / "split")
    ours, other = (
        load_model(tmp_path / layout, dtype="float32", device="cpu").compute_logits(prompt(70))
        for layout in ("fused", "split")
    )
    # The rows are exactly the same; sums of a product differ by its shape, as from transformers'.
    assert (ours - other).abs().max() <= 5e-5
