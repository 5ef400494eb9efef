"""`helexa quantize` to a folder: what is read back is what `quant` makes at load, bit by bit."""

from __future__ import annotations

import errno
import json
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import helexa
from helexa.cli.main import cli
from helexa.engine.checkpoint.checkpoint import open_checkpoint
from helexa.engine.config import ModelConfig
from helexa.engine.kernels.bags import can_bag
from helexa.engine.loading import load_model
from helexa.errors import CheckpointError, InvalidRequest, UnsupportedModel
from helexa.quantising import least_bytes, quantise_to_file
from tests.engine.models.families import Family, hybrid, prompt, save_stacked, worst
from tests.test_quantising import TINY, with_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:.*have no rows of whole:UserWarning")

WIDE = {"hidden_size": 256, "num_hidden_layers": 4}
MOE = WIDE | {"moe_intermediate_size": 64}
WHOLE_HEADS = {"linear_value_head_dim": 32}
"""A block is of one head: GGUF has the heads in another order, and so other blocks elsewhere."""
FAMILIES = (
    Family("llama", "llama", WIDE),
    Family("qwen3", fields=WIDE),
    Family("qwen3-tied", fields=WIDE | {"tie_word_embeddings": True}),
    Family("qwen3_moe", "qwen3_moe", MOE | {"norm_topk_prob": True}),
    hybrid("qwen3_next", "qwen3_next", **MOE),
    hybrid("qwen3_5", **WIDE, **WHOLE_HEADS),
    hybrid("qwen3_5_moe", "qwen3_5_moe", **MOE, **WHOLE_HEADS),
)
IDS = prompt(40)


def tensors_of(folder: Path) -> dict[str, Tensor]:
    """The weights of a folder as the `safetensors` library reads them."""
    files = sorted(folder.glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def section_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
    return found["quantization_config"]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_folder_is_the_model_quantised_at_load_and_the_gguf_file(
    family: Family, tmp_path: Path
) -> None:
    folder = with_tokenizer(family.save(tmp_path / "plain").folder)
    written = quantise_to_file(folder, tmp_path / "q", "q4_k").path
    file = quantise_to_file(folder, tmp_path / "q.gguf", "q4_k").path
    for dtype in ("auto", "float32"):
        twin = load_model(folder, quant="q4_k", dtype=dtype).compute_logits(IDS)
        logits = load_model(written, dtype=dtype).compute_logits(IDS)
        assert torch.equal(logits, twin)
    assert worst(logits, load_model(file, dtype="float32").compute_logits(IDS)) < 1e-3
    kinds = {section_of(written)["block_type"], *section_of(written)["exceptions"].values()}
    assert kinds == {"Q4_K", "Q4_0"}  # hidden states of 256, all else of fewer


@pytest.mark.parametrize("size", [64, 40], ids=["all in blocks", "down plain"])
@pytest.mark.parametrize("kind", ["qwen3_moe", "qwen3_5_moe"])
def test_experts_in_one_tensor(kind: str, size: int, tmp_path: Path) -> None:
    fields = MOE | {"moe_intermediate_size": size}
    if kind == "qwen3_moe":
        family = Family("m", kind, fields)
    else:
        family = hybrid("m", kind, **{**fields, "shared_expert_intermediate_size": size})
    plain = save_stacked(family.save(tmp_path / "first"), tmp_path / "plain")
    written = quantise_to_file(plain, tmp_path / "q", "q5_k").path
    stored = tensors_of(written)
    up = stored["model.layers.1.mlp.experts.gate_up_proj"]
    down = stored["model.layers.1.mlp.experts.down_proj"]
    assert (up.dtype, list(up.shape)) == (torch.uint8, [16, 2 * size, 176])
    assert down.dtype == (torch.float32 if size == 40 else torch.uint8)
    for dtype in ("auto", "float32"):
        twin = load_model(plain, quant="q5_k", dtype=dtype).compute_logits(IDS)
        logits = load_model(written, dtype=dtype).compute_logits(IDS)
        if size == 64:
            assert torch.equal(logits, twin)
        assert worst(logits, twin) < 1e-4  # products of mapped matrices vary with their addresses


@pytest.mark.parametrize("quant", ["q8_0", "q6_k", "q5_k", "q5_0", "q4_k", "q4_0"])
def test_blocks_mean_what_others_say_they_mean(quant: str, tmp_path: Path) -> None:
    written = quantise_to_file("tiny", tmp_path / "t", quant)
    stored = tensors_of(written.path)
    assert section_of(written.path) == {
        "quant_method": "helexa_blocks",
        "block_type": written.format,
    }
    assert written.nbytes == (written.path / "model.safetensors").stat().st_size
    assert written.tensors == {"BF16": 22, written.format: 35}
    model = load_model(written.path, dtype="float32")
    parts = [
        stored[f"model.layers.0.self_attn.{name}_proj.weight"].numpy() for name in ("q", "k", "v")
    ]
    kind = gguf.GGMLQuantizationType[written.format]
    values = [torch.from_numpy(gguf.dequantize(part, kind).copy()) for part in parts]
    assert torch.equal(model.layers[0].mixer.qkv.weight.matrix(), torch.cat(values))
    assert model.num_parameters == load_model("tiny").num_parameters == written.parameters


@pytest.mark.parametrize(
    ("quant", "dtype"),
    [("f32", torch.float32), ("bf16", torch.bfloat16), ("f16", torch.float16)],
)
def test_plain_formats_need_no_explanation(quant: str, dtype: torch.dtype, tmp_path: Path) -> None:
    folder = quantise_to_file("tiny", tmp_path / "t", quant).path
    assert "quantization_config" not in json.loads((folder / "config.json").read_text("utf-8"))
    source, stored = tensors_of(TINY), tensors_of(folder)
    assert stored.keys() == source.keys()
    for name, tensor in source.items():
        linear = tensor.dim() == 2 and "embed" not in name
        assert torch.equal(stored[name], tensor.to(dtype) if linear else tensor), name
    twin, model = (
        load_model(path, dtype="float32", quant=wanted, disabled=())
        for path, wanted in (("tiny", quant), (folder, None))
    )
    assert worst(model.compute_logits(IDS), twin.compute_logits(IDS)) < 1e-4


@pytest.mark.parametrize("size", [64, 1024], ids=["small", "large"])
@pytest.mark.parametrize(("quant", "format"), [("bf16", torch.bfloat16), ("f16", torch.float16)])
def test_plain_formats_round_at_load_as_in_a_folder(
    quant: str, format: torch.dtype, size: int, tmp_path: Path
) -> None:
    """Of weights in float32; sizes on both sides of where a CPU keeps matrices in float32."""
    fields = {"hidden_size": size, "intermediate_size": size, "num_hidden_layers": 1}
    folder = Family("m", fields=fields).save(tmp_path / "m").folder
    written = quantise_to_file(folder, tmp_path / "q", quant).path
    for dtype in ("float32", "auto"):
        twin = load_model(folder, quant=quant, dtype=dtype, disabled=())
        stored, source = (
            load_model(path, dtype="float32", disabled=()) for path in (written, folder)
        )
        found, expected, exact = (
            model.layers[0].mlp.gate_up.weight.matrix().float() for model in (twin, stored, source)
        )
        assert (found - expected).abs().max() <= 2.0**-24  # what float16 holds of small numbers
        assert torch.equal(expected, exact.to(format).float())
        assert not torch.equal(expected, exact)
        if size == 64 and dtype == "float32":
            assert torch.equal(twin.compute_logits(IDS), stored.compute_logits(IDS))


def test_all_that_belongs_to_a_model_comes_along(tmp_path: Path) -> None:
    source = Path(shutil.copytree(TINY, tmp_path / "m"))
    for name in ("special_tokens_map.json", "preprocessor_config.json", "chat_template.json"):
        (source / name).write_text(json.dumps({"name": name}))
    (source / "README.md").write_text("not of the model")
    config = json.loads((source / "config.json").read_text("utf-8"))
    config |= {"of_others": [1, 2.5, "ü", None], "quantization_config": None}
    (source / "config.json").write_text(json.dumps(config))
    folder = quantise_to_file(source, tmp_path / "q", "q8_0").path
    for path in source.iterdir():
        if path.name in ("config.json", "model.safetensors"):
            continue
        if path.name in ("README.md", "evaluation.json"):
            assert not (folder / path.name).exists()
        else:
            assert (folder / path.name).read_bytes() == path.read_bytes(), path.name
    written = json.loads((folder / "config.json").read_text("utf-8"))
    assert written == config | {"quantization_config": section_of(folder)}


def test_a_folder_speaks_as_the_model_does(tmp_path: Path) -> None:
    folder = quantise_to_file("tiny", tmp_path / "t", "q4_k").path
    question = [{"role": "user", "content": "What is 17 plus 25?"}]
    with helexa.LLM("tiny", quant="q4_k") as model, helexa.LLM(folder) as stored:
        said = [llm.chat(question, temperature=0, max_tokens=30) for llm in (model, stored)]
    assert said[0].text == said[1].text
    assert said[1].finish_reason == "stop"


def test_what_gguf_cannot_say_is_kept(tmp_path: Path) -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    for family in (
        Family("exact", rope=yarn | {"truncate": False}),
        Family("moe", "qwen3_moe", {"norm_topk_prob": False}),
        Family("sparse", "qwen3_moe", {"norm_topk_prob": False, "mlp_only_layers": [1]}),
    ):
        folder = family.save(tmp_path / family.name).folder
        written = quantise_to_file(folder, tmp_path / f"{family.name}-q", "q8_0").path
        twin = load_model(folder, quant="q8_0").compute_logits(IDS)
        assert torch.equal(load_model(written).compute_logits(IDS), twin)


def test_shards(tmp_path: Path) -> None:
    limit = 300_000
    written = quantise_to_file("tiny", tmp_path / "t", "q8_0", shard_bytes=limit)
    folder = written.path
    index = json.loads((folder / "model.safetensors.index.json").read_text("utf-8"))
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    assert list(written.files) == files == sorted(set(index["weight_map"].values()))
    assert len(files) > 3 and files[0] == f"model-00001-of-{len(files):05}.safetensors"
    total = 0
    for file in files:
        with safe_open(folder / file, "pt") as stored:
            sizes = [stored.get_tensor(name).nbytes for name in stored.keys()]  # noqa: SIM118 - no mapping
            assert {index["weight_map"][name] for name in stored.keys()} == {file}  # noqa: SIM118 - no mapping
        assert sum(sizes) <= limit or len(sizes) == 1
        total += sum(sizes)
    assert index["metadata"]["total_size"] == total
    assert sum((folder / file).stat().st_size for file in files) == written.nbytes
    twin = load_model("tiny", quant="q8_0").compute_logits(IDS)
    assert torch.equal(load_model(folder).compute_logits(IDS), twin)


def test_a_vision_tower_stays_and_what_nobody_uses_goes(tmp_path: Path) -> None:
    folder = hybrid("m", num_hidden_layers=4).save(tmp_path / "m").folder
    tensors = load_file(folder / "model.safetensors")
    tower = torch.randn(64, 64)
    tensors |= {"model.visual.blocks.0.attn.qkv.weight": tower, "mtp.fc.weight": torch.ones(64, 64)}
    save_file(tensors, folder / "model.safetensors")
    written = quantise_to_file(folder, tmp_path / "q", "q8_0").path
    stored = tensors_of(written)
    assert torch.equal(stored["model.visual.blocks.0.attn.qkv.weight"], tower)
    assert tensors.keys() - stored.keys() == {"mtp.fc.weight"}
    assert load_model(written).compute_logits(IDS).isfinite().all()


def test_weights_are_mapped_not_read(tmp_path: Path) -> None:
    folder = quantise_to_file("tiny", tmp_path / "t", "q4_0").path
    name = "model.layers.0.self_attn.q_proj.weight"
    with closing(open_checkpoint(folder)) as checkpoint:
        first, second = checkpoint.stored(name), checkpoint.stored(name)
        assert first.data_ptr() == second.data_ptr()
        assert list(first.shape) == [256, 8 * 18]
        assert checkpoint.info(name).shape == (256, 256)
        values = torch.from_numpy(gguf.dequantize(first.numpy(), gguf.GGMLQuantizationType.Q4_0))
        assert torch.equal(checkpoint.tensor(name), values)
        assert torch.equal(checkpoint.slice(name, 0, 3, 2), values[3:5])


def test_quantised_weights_are_not_quantised_again(tmp_path: Path) -> None:
    folder = quantise_to_file("tiny", tmp_path / "t", "q4_0").path
    with pytest.raises(UnsupportedModel, match=r"quantised already \(helexa_blocks.*Q4_0"):
        load_model(folder, quant="q8_0")
    with pytest.raises(UnsupportedModel, match="quantised already"):
        quantise_to_file(folder, tmp_path / "again", "q4_k")
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"block_type": "Q4_X"}, r"block_type.*one of Q4_0"),
        ({"block_type": None}, r"block_type.*missing"),
        ({"exceptions": {"model.layers.*.mlp.up_proj.weight": "IQ"}}, r"up_proj.weight.*one of"),
        ({"block_type": "Q6_K"}, r"layers.*U8.*no rows of Q6_K blocks"),
        ({"exceptions": {"*.1.mlp.up_proj.weight": "Q8_0"}}, r"1\.mlp\.up_proj.*no rows of Q8_0"),
        ({"block_type": "Q4_1"}, r"no rows of Q4_1|has shape"),
        ("gone", r"tensor '.*' in .*model.safetensors holds bytes.*quantization_config"),
    ],
    ids=["unknown", "none", "unknown of one", "another", "another of one", "fits", "no config"],
)
def test_a_folder_that_does_not_fit_together(change: Any, told: str, tmp_path: Path) -> None:
    folder = quantise_to_file("tiny", tmp_path / "t", "q4_0").path
    config = json.loads((folder / "config.json").read_text("utf-8"))
    if change == "gone":
        del config["quantization_config"]
    else:
        config["quantization_config"] |= change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=told) as caught:
        load_model(folder)
    assert caught.value.hint


def test_the_command(tmp_path: Path) -> None:
    to = tmp_path / "tiny-q4"
    done = CliRunner().invoke(cli, ["quantize", "tiny", str(to), "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    size = (to / "model.safetensors").stat().st_size
    assert (told["path"], told["weight_files"]) == (str(to), ["model.safetensors"])
    assert (told["format"], told["bytes"], told["tensors"]["Q4_K"]) == ("Q4_K", size, 35)
    again = CliRunner().invoke(cli, ["quantize", "tiny", str(to)])
    assert again.exit_code == 1 and "--force" in again.stderr
    forced = CliRunner().invoke(cli, ["quantize", "tiny", str(to), "--force", "--to", "q8_0"])
    assert (forced.exit_code, forced.stdout.strip()) == (0, str(to))
    assert section_of(to)["block_type"] == "Q8_0"
    assert [path.name for path in tmp_path.iterdir()] == ["tiny-q4"]
    shown = json.loads(CliRunner().invoke(cli, ["inspect", str(to), "--json"]).stdout)
    groups = {group["name"]: group for group in shown["tensors"]}
    up = groups["model.layers.*.mlp.up_proj.weight"]
    assert (up["dtype"], up["shape"], up["bytes"]) == ("Q8_0", [512, 256], 5 * 512 * 8 * 34)
    assert shown["supported"] and shown["parameters"] == told["parameters"]
    assert 8.5 < shown["bits_per_weight"] < 10
    printed = CliRunner().invoke(cli, ["inspect", str(to)]).stdout
    assert "helexa_blocks, 8 bits, Q8_0" in printed


@pytest.mark.parametrize("dtype", ["auto", "float32"])
def test_large_matrices_take_the_same_fast_way(dtype: str, tmp_path: Path) -> None:
    large = {"hidden_size": 1024, "intermediate_size": 1024, "num_hidden_layers": 1}
    folder = with_tokenizer(Family("large", fields=large).save(tmp_path / "m").folder)
    paths = [
        quantise_to_file(folder, tmp_path / name, "q4_k", shard_bytes=10**6).path
        for name in ("q", "q.gguf")
    ]
    twin = load_model(folder, quant="q4_k", dtype=dtype, disabled=())
    expected = twin.compute_logits(IDS), twin.compute_logits(IDS[:1])
    for path in paths:
        model = load_model(path, dtype=dtype, disabled=())
        ours, theirs = model.layers[0].mlp.gate_up.weight, twin.layers[0].mlp.gate_up.weight
        if dtype == "auto" and can_bag():  # else blocks stay in their file
            assert type(ours) is type(theirs)
        assert (ours.nbytes, ours.shape) == (theirs.nbytes, theirs.shape)
        assert torch.equal(ours.matrix(), theirs.matrix())
        for ids, logits in zip((IDS, IDS[:1]), expected, strict=True):
            if path.suffix:
                assert worst(model.compute_logits(ids), logits) < 1e-3
            else:
                assert torch.equal(model.compute_logits(ids), logits)


def test_what_is_not_finished_leaves_nothing(tmp_path: Path) -> None:
    def interrupted(name: str, done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    def full(name: str, done: int, total: int | None) -> None:
        assert total is not None
        if done > total / 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(KeyboardInterrupt):
        quantise_to_file("tiny", tmp_path / "x", "q8_0", progress=interrupted)
    with pytest.raises(CheckpointError, match="No space left"):
        quantise_to_file("tiny", tmp_path / "x", "q8_0", progress=full)
    assert list(tmp_path.iterdir()) == []


def test_progress_ends_with_all_bytes(tmp_path: Path) -> None:
    told: list[tuple[str, int, int | None]] = []
    written = quantise_to_file(
        "tiny",
        tmp_path / "x",
        "q8_0",
        progress=lambda *args: told.append(args),
        shard_bytes=10**6,
    )
    assert told[-1] == ("x", written.nbytes, written.nbytes)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_model_is_not_written_over_itself(overwrite: bool, tmp_path: Path) -> None:
    source = quantise_to_file("tiny", tmp_path / "m", "bf16").path
    (tmp_path / "link").symlink_to("m")
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    for to in (source, tmp_path / "link", tmp_path / "m" / ".." / "m"):
        for model in (source, tmp_path / "link"):
            with pytest.raises(InvalidRequest, match="the model itself"):
                quantise_to_file(model, to, "q4_k", overwrite=overwrite)
    assert {path.name: path.read_bytes() for path in source.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "m"]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_the_least_size_is_no_more_than_the_size(family: Family, tmp_path: Path) -> None:
    """Else room that there is would be refused."""
    folder = family.save(tmp_path / "plain").folder
    source = (folder / "model.safetensors").stat().st_size
    config = ModelConfig.from_file(folder / "config.json", "m")
    for quant in ("q4_k", "q4_0", "q8_0", "f16", "f32"):
        written = quantise_to_file(folder, tmp_path / quant, quant)
        least = least_bytes(config, source, written.format)
        assert least <= written.nbytes
        if family.name in ("qwen3", "llama", "qwen3_moe"):
            assert least > written.nbytes / 2
    assert least_bytes(config, None, "F32") == 0
