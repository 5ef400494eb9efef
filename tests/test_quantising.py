"""`helexa quantize`: GGUF files that others read, and that say what the checkpoint said."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

import helexa
from helexa.cli.main import cli
from helexa.engine.checkpoint.checkpoint import open_checkpoint
from helexa.engine.end_tokens import end_token_ids
from helexa.engine.loading import load_model
from helexa.engine.params import GenerationDefaults
from helexa.engine.quant.blocks.types import BLOCK_TYPES
from helexa.errors import (
    CheckpointError,
    HelexaError,
    InvalidRequest,
    PreflightError,
    UnsupportedModel,
)
from helexa.quantising import quantise_to_file
from helexa.text.tokenizer import Tokenizer
from tests.engine.checkpoint.gguf_files import plain, write_gguf
from tests.engine.models.families import Family, hybrid, prompt, worst

TINY = Path(helexa.__file__).parent / "builtin" / "tiny"
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
FAMILIES = (
    Family("qwen3"),
    Family("qwen3-tied", fields={"tie_word_embeddings": True}),
    Family("llama", "llama"),
    Family("llama3", "llama", rope=LLAMA3),
    Family("yarn", rope=YARN),
    Family("yarn-scaled", rope={**YARN, "attention_factor": 2.0}),
    Family("yarn-mscale", rope={**YARN, "mscale": 1.0, "mscale_all_dim": 0.5}),
    Family("qwen3_moe", "qwen3_moe", {"norm_topk_prob": True}),
    hybrid("qwen3_next", "qwen3_next"),
    hybrid("qwen3_5"),
    hybrid("qwen3_5_moe", "qwen3_5_moe"),
)


def with_tokenizer(folder: Path) -> Path:
    """The built-in model's tokenizer beside a checkpoint of at least its vocabulary's size."""
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(TINY / name, folder / name)
    return folder


def tokenizer_of(path: Path) -> Tokenizer:
    with closing(open_checkpoint(path)) as checkpoint:
        return Tokenizer.from_files(checkpoint.tokenizer_files())


def read(path: Path) -> dict[str, Any]:
    """The tensors of a file as the `gguf` package reads them."""
    return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_plain_file_is_the_checkpoint(family: Family, tmp_path: Path) -> None:
    """Tensor by tensor what an independent converter writes, and the same logits."""
    folder = with_tokenizer(family.save(tmp_path).folder)
    ours = quantise_to_file(folder, tmp_path / "ours.gguf", "f32").path
    theirs = write_gguf(folder, tmp_path / "theirs.gguf", plain(np.float32))
    found, expected = read(ours), read(theirs)  # which knows nothing of yarn's own factors
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert list(found[name].shape) == list(tensor.shape), name
        np.testing.assert_allclose(found[name].data, tensor.data, rtol=1e-6, err_msg=name)
    twin = load_model(folder, dtype="float32").compute_logits(prompt(70))
    logits = load_model(ours, dtype="float32").compute_logits(prompt(70))
    assert worst(logits, twin) < 1e-3


@pytest.mark.parametrize("quant", ["q8_0", "q6_k", "q5_k", "q5_0", "q4_k", "q4_0"])
def test_blocks_are_read_by_others(quant: str, tmp_path: Path) -> None:
    written = quantise_to_file("tiny", tmp_path / "tiny.gguf", quant)
    tensors = read(written.path)
    assert written.nbytes == written.path.stat().st_size
    kinds = [tensor.tensor_type.name for tensor in tensors.values()]
    assert {name: kinds.count(name) for name in set(kinds)} == written.tensors
    plain_q = load_model("tiny", dtype="float32").layers[0].mixer.qkv.weight.matrix()[:256]
    stored = tensors["blk.0.attn_q.weight"]
    values = torch.from_numpy(gguf.dequantize(stored.data, stored.tensor_type).copy())
    assert stored.tensor_type.name == written.format
    error = (values - plain_q).norm() / plain_q.norm()
    assert 0 < error < 0.1
    expected = BLOCK_TYPES[written.format].rows(plain_q.contiguous())
    assert np.array_equal(stored.data, expected.numpy())


def test_a_file_speaks_as_the_model_does(tmp_path: Path) -> None:
    path = quantise_to_file("tiny", tmp_path / "tiny.gguf", "f16").path
    question = [{"role": "user", "content": "What is 17 plus 25?"}]
    text = "Ein Satz, 一句话 🙂\n\n  x"
    assert tokenizer_of(path).encode(text) == tokenizer_of(TINY).encode(text)
    with helexa.LLM("tiny") as model, helexa.LLM(path) as file:
        said = [llm.chat(question, temperature=0, max_tokens=30) for llm in (model, file)]
    assert said[0].text == said[1].text
    assert said[0].usage.prompt_tokens == said[1].usage.prompt_tokens
    assert said[1].finish_reason == "stop"


def test_metadata_for_other_programs(tmp_path: Path) -> None:
    reader = gguf.GGUFReader(quantise_to_file("tiny", tmp_path / "t.gguf", "q8_0").path)
    values = {name: field.contents() for name, field in reader.fields.items()}
    tokenizer = json.loads((TINY / "tokenizer.json").read_text("utf-8"))
    assert values["general.architecture"] == "qwen3"
    assert values["general.file_type"] == gguf.LlamaFileType.MOSTLY_Q8_0
    assert values["tokenizer.ggml.pre"] == "qwen2"
    assert len(values["tokenizer.ggml.merges"]) == len(tokenizer["model"]["merges"])
    assert values["tokenizer.chat_template"] == (TINY / "chat_template.jinja").read_text("utf-8")
    assert "tokenizer.huggingface.json" not in values


def test_a_tokenizer_that_gguf_has_no_name_for_goes_in_whole(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(TINY, tmp_path / "model"))
    tokenizer = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    tokenizer["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\w+|\W"
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.warns(UserWarning, match="other programs may cut text into other tokens$"):
        path = quantise_to_file(folder, tmp_path / "odd.gguf", "f16").path
    assert tokenizer_of(path).encode("don't  ask 1") == tokenizer_of(folder).encode("don't  ask 1")


@pytest.mark.parametrize("flag", ["lstrip", "rstrip", "single_word"])
def test_added_tokens_with_rules_of_their_own_keep_them(flag: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(TINY, tmp_path / "model"))
    tokenizer = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    tokenizer["added_tokens"][-1][flag] = True
    word = tokenizer["added_tokens"][-1]["content"]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.warns(UserWarning, match="other programs may treat spaces and letters"):
        path = quantise_to_file(folder, tmp_path / "odd.gguf", "f16").path
    for text in (f"a {word} b", f"a{word}b"):
        assert tokenizer_of(path).encode(text) == tokenizer_of(folder).encode(text)


def with_ends(to: Path, config: object, generation: object) -> Path:
    """A copy of the built-in model whose files name these ends."""
    shutil.copytree(TINY, to)
    for name, ids in (("config.json", config), ("generation_config.json", generation)):
        raw = json.loads((to / name).read_text("utf-8"))
        (to / name).write_text(json.dumps(raw | {"eos_token_id": ids}))
    return to


def ends_of(path: Path) -> frozenset[int]:
    with closing(open_checkpoint(path)) as checkpoint:
        defaults = GenerationDefaults.from_json(checkpoint.generation_config)
        return end_token_ids(checkpoint, defaults)


def test_every_end_of_an_answer_is_said(tmp_path: Path) -> None:
    folder = with_ends(tmp_path / "m", [1015, 1021], [1015, 300])
    (tmp_path / "alone").mkdir()
    path = quantise_to_file(folder, tmp_path / "alone" / "m.gguf", "f16").path
    assert ends_of(path) == ends_of(folder) == {300, 1015, 1017, 1021}
    values = {name: f.contents() for name, f in gguf.GGUFReader(path).fields.items()}
    keys = [f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom")]
    assert [values.get(key) for key in keys] == [1015, 1021, 300]
    usual = quantise_to_file("tiny", tmp_path / "alone" / "t.gguf", "f16").path
    assert ends_of(usual) == ends_of(TINY)


def test_ends_without_a_key_are_told(tmp_path: Path) -> None:
    folder = with_ends(tmp_path / "m", [1015, 300, 1021, 301], [])
    with pytest.warns(UserWarning, match=r"three keys.*none ends on 301, unless") as warned:
        path = quantise_to_file(folder, tmp_path / "m.gguf", "f16").path
    assert len(warned) == 1
    assert ends_of(path) == {300, 1015, 1017, 1021}


@pytest.mark.parametrize("to", ["q", "q.gguf"])
@pytest.mark.parametrize(("size", "other"), [(40, "plain"), (64, "Q4_0")])
def test_matrices_in_another_format_are_counted(
    size: int, other: str, to: str, tmp_path: Path
) -> None:
    """Of 4 layers the rows of `down_proj` have ``size`` numbers, all other matrices 256."""
    fields = {"hidden_size": 256, "intermediate_size": size, "num_attention_heads": 8}
    folder = with_tokenizer(Family("odd", fields=fields).save(tmp_path / "odd").folder)
    with pytest.warns(UserWarning) as at_load:
        load_model(folder, quant="q4_k")
    with pytest.warns(UserWarning) as written:
        quantise_to_file(folder, tmp_path / to, "q4_k")
    told = f"4 matrices have no rows of whole Q4_K blocks (256 numbers): 4 are {other}"
    assert [str(w.message) for w in at_load] == [str(w.message) for w in written] == [told]


@pytest.mark.parametrize("kind", ["qwen3_5", "qwen3_next"])
def test_a_second_turn_of_a_recurrent_model_in_a_file(kind: str, tmp_path: Path) -> None:
    sizes = {"vocab_size": 1024, "max_position_embeddings": 2048, "num_hidden_layers": 4}
    folder = with_tokenizer(hybrid("turns", kind, **sizes).save(tmp_path).folder)
    file = quantise_to_file(folder, tmp_path / "m.gguf", "f32").path
    turn = [{"role": "user", "content": "Tell me of the sea, and of the sky above it."}]
    longer = [*turn, {"role": "assistant", "content": "Wide."}, {"role": "user", "content": "And?"}]
    cached = []
    for model in (folder, file):
        with helexa.LLM(model, dtype="float32") as llm:
            llm.chat(turn, max_tokens=4, temperature=0)
            cached.append(llm.chat(longer, max_tokens=4, temperature=0).usage.cached_tokens)
    assert cached[0] == cached[1] > 20


def damaged(folder: Path, to: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of a checkpoint whose tensors were changed."""
    shutil.copytree(folder, to)
    tensors = load_file(to / "model.safetensors")
    change(tensors)
    save_file(tensors, to / "model.safetensors")
    return to


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda t: t.pop("model.layers.1.mlp.up_proj.weight"), r"layers\.1\.mlp\.up_proj"),
        (lambda t: t.pop("model.embed_tokens.weight"), "embed_tokens"),
        (lambda t: t.update({"model.layers.0.foo.weight": torch.ones(2)}), r"layers\.0\.foo"),
        (lambda t: t.update({"foo.weight": torch.ones(2)}), r"foo\.weight"),
        (
            lambda t: t.update({"model.layers.1.mlp.up_proj.weight": torch.ones(8, 8)}),
            r"up_proj.*\[8, 8\]",
        ),
    ],
    ids=["absent", "no embedding", "surplus in a layer", "surplus", "another shape"],
)
def test_a_broken_checkpoint_is_told_by_its_tensor(
    change: Callable[[dict[str, Any]], None], named: str, tmp_path: Path
) -> None:
    broken = damaged(TINY, tmp_path / "broken", change)
    refused(CheckpointError, broken, tmp_path / "x.gguf", "q8_0", match=named)
    assert not (tmp_path / "x.gguf").exists()


def test_another_format_than_was_asked_for_is_told(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="not quantised to q3_k; they get Q4_K"):
        quantise_to_file("tiny", tmp_path / "x.gguf", "q3_k")
    odd = with_tokenizer(Family("odd").save(tmp_path / "odd").folder)  # rows of 64 and 128
    with pytest.warns(UserWarning, match="no rows of whole Q6_K blocks"):
        quantise_to_file(odd, tmp_path / "y.gguf", "q6_k")


def test_what_float16_cannot_hold_is_told(tmp_path: Path) -> None:
    def enlarge(tensors: dict[str, Any]) -> None:
        tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = 1e5

    large = damaged(TINY, tmp_path / "large", enlarge)
    refused(CheckpointError, large, tmp_path / "x.gguf", "f16", match="too large for float16")


def refused(kind: type[HelexaError], *args: Any, match: str, **options: Any) -> None:
    with pytest.raises(kind, match=match):
        quantise_to_file(*args, **options)


def test_what_cannot_be_written_is_told_before_anything_is(tmp_path: Path) -> None:
    there = tmp_path / "there.gguf"
    there.write_bytes(b"mine")
    refused(InvalidRequest, "tiny", there, "q4_k", match="exists")
    refused(InvalidRequest, "tiny", tmp_path / "x.bin", "q4_k", match=r"\.gguf|name of a file")
    refused(InvalidRequest, "tiny", tmp_path / "no" / "x.gguf", "q4_k", match="no folder")
    refused(InvalidRequest, "tiny", tmp_path / "x.gguf", "", match="no format")
    refused(PreflightError, "tiny", tmp_path / "x.gguf", "q9", match="q9")
    small = quantise_to_file("tiny", tmp_path / "small.gguf", "q8_0").path
    refused(UnsupportedModel, small, tmp_path / "x.gguf", "q4_k", match="quantised already")
    folder = Path(shutil.copytree(TINY, tmp_path / "mute"))
    (folder / "tokenizer.json").unlink()
    refused(CheckpointError, folder, tmp_path / "x.gguf", "q4_k", match=r"tokenizer\.json")
    exact = {**YARN, "truncate": False}
    ramp = with_tokenizer(Family("exact", rope=exact).save(tmp_path / "exact").folder)
    refused(UnsupportedModel, ramp, tmp_path / "x.gguf", "q4_k", match="truncate")
    moe = with_tokenizer(Family("m", "qwen3_moe").save(tmp_path / "moe").folder)
    refused(UnsupportedModel, moe, tmp_path / "x.gguf", "q4_k", match="norm_topk_prob")
    assert there.read_bytes() == b"mine"
    assert sorted(path.name for path in tmp_path.glob("*.gguf*")) == ["small.gguf", "there.gguf"]


def test_a_file_that_is_not_finished_leaves_nothing(tmp_path: Path) -> None:
    def stop(name: str, done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantise_to_file("tiny", tmp_path / "x.gguf", "q8_0", progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_the_command(tmp_path: Path) -> None:
    to = tmp_path / "tiny.gguf"
    done = CliRunner().invoke(cli, ["quantize", "tiny", str(to), "--to", "Q4_K_M", "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["path"], told["format"], told["bytes"]) == (str(to), "Q4_K", to.stat().st_size)
    assert told["tensors"]["Q4_K"] == 35 and 4 < told["bits_per_weight"] < 7
    again = CliRunner().invoke(cli, ["quantize", "tiny", str(to)])
    assert again.exit_code == 1 and "--force" in again.stderr
    forced = CliRunner().invoke(cli, ["quantize", "tiny", str(to), "--force", "--to", "q8_0"])
    assert (forced.exit_code, forced.stdout.strip()) == (0, str(to))
