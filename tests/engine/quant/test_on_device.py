"""Which weights are multiplied by kernels for GPUs, and that they stay what they are."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from helexa.engine.kernels.stored_matrix import has_triton
from helexa.engine.loading import load_model
from helexa.engine.quant.dense import DenseFormat, DenseWeight
from helexa.engine.quant.on_device import DeviceWeight, for_device, stored_parts, with_kernels
from helexa.engine.quant.stack import StackedWeight
from tests.engine.kernels.stored import DEVICE, blocks, fp8, groups

MADE = {
    "blocks": lambda: blocks("Q8_0", 40, 64),
    "fp8": lambda: fp8(40, 64, (16, 16)),
    "groups": lambda: groups(40, 64, 32),
}


@pytest.mark.parametrize("kind", MADE)
def test_it_is_the_same_weight(kind: str) -> None:
    weight = MADE[kind]()
    ours = with_kernels(weight)
    assert isinstance(ours, DeviceWeight)
    assert ours.weight is weight
    assert (ours.shape, ours.nbytes) == (ours.weight.shape, ours.weight.nbytes)
    assert torch.equal(ours.matrix(), ours.weight.matrix())
    assert torch.equal(ours.rows(3, 7), ours.weight.matrix()[3:7])


def test_it_multiplies_by_its_kernels() -> None:
    pytest.importorskip("triton", reason="there is no triton for this machine")
    weight = blocks("Q8_0", 40, 64)
    x = torch.randn(3, 64, device=DEVICE)
    expected = x @ weight.matrix().T
    torch.testing.assert_close(with_kernels(weight).matmul(x), expected, rtol=1e-5, atol=1e-5)


def test_its_splits_may_be_added_up_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="there is no triton for this machine")
    from helexa.engine.kernels import products_triton

    weight = blocks("Q8_0", 40, 512)
    x = torch.randn(1, 512, device=DEVICE)
    expected = x @ weight.matrix().T
    ours = with_kernels(weight)
    assert isinstance(ours, DeviceWeight)
    monkeypatch.setattr(products_triton, "processors", lambda device: 132)
    assert ours.split_matmul(x).shape == (1, 40)
    monkeypatch.setattr(products_triton, "LEAST_STEPS", 1)
    found = ours.split_matmul(x)
    assert (found.shape, found.dtype) == ((4, 1, 40), torch.float32)
    torch.testing.assert_close(found.sum(0), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.matmul(x), expected, rtol=1e-5, atol=1e-5)


def test_formats_without_a_decoder_stay_as_they_are() -> None:
    type = blocks("Q8_0", 1, 32).type
    weight = blocks("Q8_0", 1, 32)
    unknown = replace(weight, type=replace(type, name="Q9_K"))
    assert with_kernels(unknown) is unknown
    assert stored_parts(unknown) is None


def test_where_kernels_are_taken() -> None:
    weight, gpu = blocks("Q8_0", 40, 64), torch.device("cuda")
    taken = for_device(weight, DenseFormat(torch.float16, gpu))
    assert isinstance(taken, DeviceWeight) == has_triton()
    assert for_device(weight, DenseFormat(torch.float16, gpu, kernels=False)) is weight
    assert for_device(weight, DenseFormat(torch.float16, torch.device("cpu"))) is weight


def test_parts_of_a_stack_are_found() -> None:
    plain, quantised = DenseWeight(torch.ones(3, 64)), with_kernels(blocks("Q8_0", 40, 64))
    found = stored_parts(StackedWeight((plain, quantised)))
    assert found is not None
    assert [(part.decoder, part.shape) for part in found] == [
        ("plain", (3, 64)),
        ("Q8_0", (40, 64)),
    ]
    assert stored_parts(StackedWeight((plain, blocks("Q8_0", 40, 64)))) is None


@pytest.mark.gpu
@pytest.mark.parametrize("quant", ["q4_0", "q5_0", "q8_0", "q4_k"])
def test_a_model_expects_what_it_does_on_a_cpu(quant: str) -> None:
    """Whatever falls back to another format does so on both."""
    prompt = list(range(1, 80))
    found, expected = (
        load_model("tiny", device=device, dtype="float32", quant=quant).compute_logits(prompt).cpu()
        for device in ("cuda", "cpu")
    )
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
