"""Loading: names and shapes checked, formats and devices resolved, the model's own account."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from helexa.engine.checkpoint.checkpoint import open_checkpoint
from helexa.engine.loading import (
    HubOptions,
    load_model,
    resolve_device,
    resolve_dtype,
    resolve_numerics,
)
from helexa.engine.quant.dense import DenseWeight
from helexa.errors import CheckpointError, InvalidRequest, PreflightError
from tests.engine.models.families import Family, Reference, prompt, worst

CPU = torch.device("cpu")
SMALL = {"num_hidden_layers": 2}
Edit = Callable[[dict[str, Tensor]], None]


@pytest.fixture
def made(tmp_path: Path) -> Reference:
    return Family("qwen3", fields=SMALL).save(tmp_path)


def rewrite(folder: Path, edit: Edit) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)


def extra(tensors: dict[str, Tensor]) -> None:
    tensors["model.layers.0.self_attn.gate.weight"] = torch.zeros(2)


def missing(tensors: dict[str, Tensor]) -> None:
    del tensors["model.layers.1.mlp.up_proj.weight"]


def reshaped(tensors: dict[str, Tensor]) -> None:
    tensors["model.layers.0.self_attn.k_norm.weight"] = torch.ones(31)


def transposed(tensors: dict[str, Tensor]) -> None:
    name = "model.layers.0.mlp.down_proj.weight"
    tensors[name] = tensors[name].T.contiguous()


def unexpected_bias(tensors: dict[str, Tensor]) -> None:
    tensors["model.layers.0.self_attn.q_proj.bias"] = torch.zeros(128)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (extra, ["model.layers.0.self_attn.gate.weight"]),
        (missing, ["model.layers.1.mlp.up_proj.weight"]),
        (reshaped, ["model.layers.0.self_attn.k_norm.weight", "[31]", "[32]"]),
        (transposed, ["model.layers.0.mlp.down_proj.weight", "[128, 64]", "[64, 128]"]),
        (unexpected_bias, ["model.layers.0.self_attn.q_proj.bias"]),
    ],
    ids=["extra", "missing", "shape", "transposed", "bias"],
)
def test_e021_a_checkpoint_that_does_not_fit_is_refused(
    edit: Edit, words: list[str], made: Reference
) -> None:
    rewrite(made.folder, edit)
    with pytest.raises(CheckpointError) as caught:
        load_model(made.folder, device="cpu")
    assert all(word in str(caught.value) for word in words)


def test_missing_biases_are_named(made: Reference) -> None:
    path = made.folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "attention_bias": True}))
    with pytest.raises(CheckpointError, match=r"q_proj\.bias"):
        load_model(made.folder, device="cpu")


def test_e021_tensors_that_no_model_needs_are_let_pass(tmp_path: Path) -> None:
    tied = Family("tied", fields={**SMALL, "tie_word_embeddings": True}).save(tmp_path)
    expected = tied.logits(prompt(9))

    def edit(tensors: dict[str, Tensor]) -> None:
        tensors["mtp.x"] = torch.zeros(3)
        tensors["lm_head.weight"] = torch.zeros(512, 64)
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(16)

    rewrite(tmp_path, edit)
    assert worst(load_model(tmp_path, dtype="float32").compute_logits(prompt(9)), expected) < 1e-4


def test_a_checkpoint_without_a_head_is_tied(made: Reference) -> None:
    def edit(tensors: dict[str, Tensor]) -> None:
        del tensors["lm_head.weight"]

    rewrite(made.folder, edit)
    model = load_model(made.folder, device="cpu")
    assert model.head is None
    made.model.lm_head.weight = made.model.model.embed_tokens.weight
    assert worst(model.compute_logits(prompt(9)), made.logits(prompt(9))) < 1e-4


def test_the_model_knows_its_size(made: Reference) -> None:
    model = load_model(made.folder, device="cpu", dtype="float32")
    count = sum(p.numel() for p in made.model.parameters())
    assert model.num_parameters == count
    assert 4 * count <= model.nbytes < 4 * count * 1.02
    assert (model.device, model.dtype) == (CPU, torch.float32)
    cache = model.new_cache(tokens=17)
    assert (cache.num_blocks, cache.block_size) == (2, 16)
    assert cache.nbytes == 32 * model.config.kv_bytes_per_token(4)
    with pytest.raises(TypeError, match="num_blocks or tokens"):
        model.new_cache()
    with pytest.raises(ValueError, match="at least one token"):
        model.new_cache(tokens=0)


def test_logits_step_by_step_are_logits_at_once(made: Reference) -> None:
    with_cache = load_model(made.folder, device="cpu")
    ids = prompt(12)
    cache = with_cache.new_cache(tokens=12)
    parts = [with_cache.compute_logits(ids[:5], cache)]
    parts += [with_cache.compute_logits([ids[i]], cache, context=i) for i in range(5, 12)]
    assert worst(torch.cat(parts), with_cache.compute_logits(ids)) < 1e-5
    with pytest.raises(ValueError, match="cache"):
        with_cache.compute_logits(ids, context=3)


@pytest.mark.parametrize("wrong", [[], [5, 512], [-1]], ids=["none", "too large", "negative"])
def test_logits_of_ids_that_are_not_there_are_refused(wrong: list[int], made: Reference) -> None:
    model = load_model(made.folder, device="cpu")
    told = r"the vocabulary has 512, 0 … 511" if wrong else "pass at least one"
    with pytest.raises(ValueError, match=told):
        model.compute_logits(wrong)


@pytest.mark.parametrize("wrong", ["hi", [[1, 2]], None, [1.5]], ids=str)
def test_what_is_no_token_ids_is_named(wrong: Any, made: Reference) -> None:
    model = load_model(made.folder, device="cpu")
    with pytest.raises(TypeError, match="not a sequence of token ids"):
        model.compute_logits(wrong)


def test_a_copy_computes_the_same(made: Reference) -> None:
    model = load_model(made.folder, device="cpu")
    assert copy.deepcopy(model).compute_logits([5, 6]).equal(model.compute_logits([5, 6]))


def test_a_model_of_the_hub_is_found_as_asked(made: Reference, tmp_path: Path) -> None:
    hub: HubOptions = {"revision": "v1", "cache_dir": tmp_path / "hub", "offline": True}
    with pytest.raises(PreflightError, match="offline"):
        load_model("org/name", device="cpu", **hub)
    repo = tmp_path / "hub" / "models--org--name"
    commit = "c0ffee" + "0" * 34
    shutil.copytree(made.folder, repo / "snapshots" / commit, ignore=shutil.ignore_patterns("hub"))
    (repo / "refs").mkdir()
    (repo / "refs" / "v1").write_text(commit)
    assert load_model("org/name", device="cpu", **hub).config.vocab_size == 512


def test_hub_options_that_cannot_count_are_refused(made: Reference) -> None:
    with pytest.raises(TypeError, match=r"'revison'.*revision, cache_dir, offline, token"):
        load_model(made.folder, revison="v1")  # type: ignore[call-arg]  # the mistake under test
    with pytest.raises(TypeError, match="revision"):
        load_model(open_checkpoint(made.folder), revision="v1")


def test_the_environment_turns_fast_paths_off(
    made: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HELEXA_DISABLE", "flash_decode,quant_kernels")
    numerics = load_model(made.folder, device="cpu").numerics
    assert (numerics.fused_prefill, numerics.fused_decode) == (True, False)
    assert load_model(made.folder, device="cpu", disabled=()).numerics.fused_decode


def test_an_open_checkpoint_stays_open(made: Reference) -> None:
    checkpoint = open_checkpoint(made.folder)
    seen: list[tuple[int, int | None]] = []
    load_model(checkpoint, progress=lambda _, done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1]
    load_model(checkpoint)


def test_fast_paths_can_be_left_out(tmp_path: Path) -> None:
    made = Family("half", fields=SMALL, dtype=torch.bfloat16).save(tmp_path)
    plain = load_model(made.folder, device="cpu", disabled={"quant_kernels"})
    assert plain.head is not None
    assert type(plain.head.weight) is DenseWeight
    fast = load_model(made.folder, device="cpu")
    similar = torch.cosine_similarity(
        plain.compute_logits(prompt(9)), fast.compute_logits(prompt(9)), dim=-1
    )
    assert similar.min() > 0.9995


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "", "tpu:0", "meta"])
def test_devices_that_are_none_are_refused(device: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        resolve_device(device)
    assert caught.value.param == "device"


def test_devices() -> None:
    assert resolve_device("cpu") == CPU
    assert resolve_device("auto").type in ("cpu", "cuda")
    with pytest.raises(InvalidRequest):
        resolve_device("cuda:99")


def test_dtypes() -> None:
    assert resolve_dtype("auto", CPU, True) == torch.float16
    assert resolve_dtype("auto", CPU, False) == torch.float32
    assert resolve_dtype("bfloat16", CPU, False) == torch.bfloat16
    assert resolve_dtype(torch.float32, CPU, True) == torch.float32
    with pytest.raises(InvalidRequest) as caught:
        resolve_dtype("int8", CPU, True)
    assert caught.value.param == "dtype"


@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16", "float16"])
def test_activations_on_a_cpu_are_float32(dtype: str) -> None:
    numerics = resolve_numerics(dtype, CPU, True)
    assert numerics.activations == torch.float32
    assert numerics.cache == resolve_dtype(dtype, CPU, True)


@pytest.mark.parametrize("hub", [{}, {"offline": True}])
def test_what_is_no_model_is_refused_as_that(hub: HubOptions) -> None:
    with pytest.raises(InvalidRequest, match="not NoneType") as caught:
        load_model(None, **hub)  # type: ignore[arg-type]  # what no type checker lets through
    assert caught.value.param == "model"
