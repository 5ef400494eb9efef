"""`helexa models`, `inspect`, `pull` and `version`: what is here, read without torch."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from click.testing import CliRunner, Result
from safetensors.numpy import load_file, save_file

import helexa
from helexa.cli.main import cli
from helexa.cli.services import Progress, Services
from helexa.errors import DownloadError
from tests.engine.checkpoint.gguf_files import finish, plain, write_config, write_gguf

Run = Callable[..., Result]
Write = Callable[[Path], Path]

LAYER_FLOATS = 8 * 8 * 2 + 4 * 8 * 2 + 4 * 2 + 16 * 8 * 3 + 8 * 2
FLOATS = 32 * 8 + 8 + 12 * LAYER_FLOATS


@pytest.fixture
def cache(tmp_path: Path, checkpoint: Write) -> Path:
    """A hub cache: a whole model, one of a type nobody knows, and a damaged one."""
    checkpoint(tmp_path / "models--org--whole" / "snapshots" / "c0ffee")
    refs = tmp_path / "models--org--whole" / "refs"
    refs.mkdir()
    (refs / "main").write_text("c0ffee")
    odd = checkpoint(tmp_path / "models--org--odd" / "snapshots" / "1")
    (odd / "config.json").write_text('{"model_type": "odd"}')
    bad = checkpoint(tmp_path / "models--org--bad" / "snapshots" / "1")
    (bad / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0nonsense")
    return tmp_path


def test_models_are_listed_with_what_they_are(run: Run, cache: Path) -> None:
    done = run("models", "--json", "--cache-dir", str(cache))
    assert done.exit_code == 0
    tiny, *found = json.loads(done.stdout)
    assert tiny["model"] == "tiny"
    rows = {row["model"]: row for row in found}
    whole = rows["org/whole"]
    assert (whole["revision"], whole["architecture"], whole["dtype"]) == (
        "main",
        "qwen3",
        "float32",
    )
    assert (whole["parameters"], whole["supported"], whole["fits"]) == (FLOATS, True, ["cpu"])
    assert whole["size_bytes"] > 4 * FLOATS
    assert not rows["org/odd"]["supported"]
    assert "unsupported model_type 'odd'" in rows["org/odd"]["why_not"]
    assert "model.safetensors" in rows["org/bad"]["why_not"]


def test_models_are_a_table_for_people(run: Run, cache: Path) -> None:
    done = run("models", "--cache-dir", str(cache))
    heading, tiny, *_ = done.stdout.splitlines()
    columns = ["MODEL", "REVISION", "SIZE", "PARAMETERS", "ARCHITECTURE", "DTYPE", "RUNS", "FITS"]
    assert heading.split() == columns
    assert "org/odd: unsupported model_type 'odd'" in done.stdout
    assert tiny.startswith("tiny ")
    assert "\x1b" not in done.stdout
    assert done.stderr == f"downloads are in {cache}\n"


@pytest.mark.parametrize("hidden", ["snapshots", "snapshots/1", "snapshots/1/config.json"])
def test_a_model_that_may_not_be_read_is_a_row_with_its_error(
    run: Run, cache: Path, monkeypatch: pytest.MonkeyPatch, hidden: str
) -> None:
    path = cache / "models--org--odd" / hidden

    def refusing(real: Callable[..., Any]) -> Callable[..., Any]:
        def ask(asked: Path, *args: Any, **kwargs: Any) -> Any:
            if asked == path:  # as permissions would, if not for root
                raise PermissionError(13, "Permission denied", str(path))
            return real(asked, *args, **kwargs)

        return ask

    monkeypatch.setattr(Path, "open", refusing(Path.open))
    monkeypatch.setattr(Path, "iterdir", refusing(Path.iterdir))
    done = run("models", "--json", "--cache-dir", str(cache))
    assert done.exit_code == 0
    rows = {row["model"]: row for row in json.loads(done.stdout)}
    assert rows["org/whole"]["supported"]
    assert not rows["org/odd"]["supported"]
    assert "Permission denied" in rows["org/odd"]["why_not"]
    assert str(path) in rows["org/odd"]["why_not"]


def test_a_model_without_an_organisation_is_listed(
    run: Run, checkpoint: Write, tmp_path: Path
) -> None:
    checkpoint(tmp_path / "models--gpt2" / "snapshots" / "1")
    done = run("models", "--json", "--cache-dir", str(tmp_path))
    assert [row["model"] for row in json.loads(done.stdout)] == ["tiny", "gpt2"]


def test_a_file_that_cannot_be_written_is_one_line() -> None:
    def fetch(*_: object) -> tuple[str, Path]:
        raise PermissionError(13, "Permission denied", "/models")

    done = CliRunner().invoke(cli, ["pull", "org/m"], obj=Services(fetch=fetch))
    assert (done.exit_code, done.stderr) == (1, "error: [Errno 13] Permission denied: '/models'\n")


@pytest.mark.parametrize("command", ["models", "inspect"])
def test_a_narrow_terminal_gets_blocks_of_lines(
    run: Run, cache: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr("helexa.cli.terminal.is_terminal", lambda stream: True)
    done = run(command, "--cache-dir", str(cache), env={"COLUMNS": "40", "NO_COLOR": "1"})
    lines = done.stdout.splitlines()
    assert {"DTYPE: bfloat16", "FITS: cpu" if command == "models" else "COUNT: 5"} <= set(lines)


def test_an_empty_cache_still_has_tiny(run: Run, tmp_path: Path) -> None:
    done = run("models", "--json", "--cache-dir", str(tmp_path / "none"))
    assert [row["model"] for row in json.loads(done.stdout)] == ["tiny"]


def test_a_model_is_inspected(run: Run, checkpoint: Write, tmp_path: Path) -> None:
    done = run("inspect", str(checkpoint(tmp_path / "m")), "--json")
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert (found["architecture"], found["parameters"]) == ("qwen3", FLOATS)
    assert found["weight_bytes"] == 4 * FLOATS
    assert found["config"]["num_hidden_layers"] == 12
    groups = {group["name"]: group for group in found["tensors"]}
    up = groups["model.layers.*.mlp.up_proj.weight"]
    assert (up["shape"], up["count"], up["bytes"]) == ([16, 8], 12, 12 * 16 * 8 * 4)
    assert sum(group["bytes"] for group in groups.values()) == 4 * FLOATS
    memory = {need["dtype"]: need for need in found["memory"]}
    assert memory["bfloat16"]["weight_bytes"] == 2 * FLOATS
    assert memory["float32"]["kv_bytes_per_token"] == 2 * 12 * 4 * 4
    cpu, card = memory["float32"]["fits"]
    assert (cpu["device"], cpu["context_tokens"]) == ("cpu", 256)
    assert (card["device"], card["context_tokens"]) == ("cuda:0", 0)  # 1 GiB free: only reserves


def test_how_a_model_is_quantised_is_shown(run: Run, checkpoint: Write, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "m")
    raw = json.loads((folder / "config.json").read_text())
    group = {"targets": ["Linear"], "weights": {"num_bits": 4, "group_size": 8}}
    raw["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {"group_0": group},
    }
    (folder / "config.json").write_text(json.dumps(raw))
    found = json.loads(run("inspect", str(folder), "--json").stdout)
    assert found["supported"]
    assert found["bits_per_weight"] == 32
    assert found["config"]["quantization"]["schemes"][0]["group_size"] == 8
    printed = run("inspect", str(folder)).stdout
    assert "compressed-tensors, 4 bits, pack-quantized" in printed
    assert "32 bits per weight" in printed


def test_every_tensor_is_listed_in_the_order_of_layers(
    run: Run, checkpoint: Write, tmp_path: Path
) -> None:
    done = run("inspect", str(checkpoint(tmp_path / "m")), "--json", "--tensors")
    names = [group["name"] for group in json.loads(done.stdout)["tensors"]]
    norms = [name for name in names if name.endswith("input_layernorm.weight")]
    assert len(names) == 2 + 12 * 11
    assert norms == [f"model.layers.{i}.input_layernorm.weight" for i in range(12)]


def test_a_report_for_people_has_its_three_tables(
    run: Run, checkpoint: Write, tmp_path: Path
) -> None:
    done = run("inspect", str(checkpoint(tmp_path / "m")))
    for words in ("CONFIG", "rms_norm_eps", "TENSOR", "16 × 8", "KV PER TOKEN", "256 tokens"):
        assert words in done.stdout
    assert "CONTEXT ON cuda:0 (1.0 GiB free)" in done.stdout


@pytest.mark.parametrize("where", ["file", "folder"])
def test_a_gguf_file_is_inspected(run: Run, checkpoint: Write, tmp_path: Path, where: str) -> None:
    dense = checkpoint(tmp_path / "m")
    config = json.loads((dense / "config.json").read_text())
    more = {"rms_norm_eps": 1e-6, "rope_theta": 1e4}
    (dense / "config.json").write_text(json.dumps(config | more))
    (tmp_path / "gguf").mkdir()
    file = write_gguf(dense, tmp_path / "gguf/m-F16.gguf", plain(np.float16))
    model = file if where == "file" else file.parent
    found = json.loads(run("inspect", str(model), "--json").stdout)
    assert (found["architecture"], found["parameters"]) == ("qwen3", FLOATS)
    assert found["stored_dtypes"] == {"float32": 49, "float16": 85}
    assert (found["file"], found["weight_files"]) == ("m-F16.gguf", ["m-F16.gguf"])
    assert found["bits_per_weight"] == pytest.approx(8 * found["weight_bytes"] / FLOATS, abs=0.01)
    assert found["config"]["num_hidden_layers"] == 12
    groups = {group["name"]: group for group in found["tensors"]}
    up = groups["blk.*.ffn_up.weight"]
    assert (up["shape"], up["dtype"], up["bytes"]) == ([16, 8], "float16", 12 * 16 * 8 * 2)
    shown = run("inspect", str(model)).stdout
    assert str(file) in shown
    assert "bits per weight" in shown


def test_a_gguf_file_in_blocks_is_inspected(run: Run, checkpoint: Write, tmp_path: Path) -> None:
    dense = checkpoint(tmp_path / "m")
    wide = {"hidden_size": 32, "head_dim": 16, "rms_norm_eps": 1e-6, "rope_theta": 1e4}
    config = json.loads((dense / "config.json").read_text()) | wide
    embedding = np.zeros((32, 32), np.float32)
    writer = gguf.GGUFWriter(tmp_path / "q.gguf", "qwen3")
    write_config(writer, config)
    writer.add_tensor("blk.11.attn_norm.weight", np.zeros(32, np.float32))
    blocks = gguf.quantize(embedding, gguf.GGMLQuantizationType.Q8_0)
    q8_0 = gguf.GGMLQuantizationType.Q8_0
    writer.add_tensor("token_embd.weight", blocks, raw_dtype=q8_0)
    writer.add_tensor(
        "odd", np.zeros((1, 66), np.uint8), raw_dtype=gguf.GGMLQuantizationType.IQ2_XXS
    )
    path = finish(writer, tmp_path / "q.gguf")
    found = json.loads(run("inspect", str(path), "--json").stdout)
    groups = {group["name"]: group for group in found["tensors"]}
    assert groups["token_embd.weight"]["dtype"] == "Q8_0"
    assert groups["token_embd.weight"]["bytes"] == 32 * 34
    assert not found["supported"]
    assert found["why_not"] == "tensor 'odd' has dtype IQ2_XXS"
    assert "8.5" in run("inspect", str(path)).stdout


def as_experts(folder: Path) -> Path:
    """Turn the config and the tensors of a model into those of a mixture of 4 experts."""
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 1}
    config |= {"moe_intermediate_size": 16, "mlp_only_layers": [4]}
    (folder / "config.json").write_text(json.dumps(config))
    tensors = load_file(folder / "model.safetensors")
    found = {}
    for name, tensor in tensors.items():
        if ".mlp." not in name or ".layers.4." in name:
            found[name] = tensor
            continue
        found |= {name.replace(".mlp.", f".mlp.experts.{e}."): tensor for e in range(4)}
    gates = {f"model.layers.{i}.mlp.gate.weight": (4, 8) for i in range(12) if i != 4}
    found |= {name: np.zeros(shape, np.float32) for name, shape in gates.items()}
    save_file(found, folder / "model.safetensors")
    return folder


def test_a_mixture_of_experts_is_inspected(run: Run, checkpoint: Write, tmp_path: Path) -> None:
    folder = as_experts(checkpoint(tmp_path / "m"))
    done = run("inspect", str(folder), "--json")
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    expert = 3 * 8 * 16
    assert found["parameters"] == FLOATS + 11 * (3 * expert + 4 * 8)
    assert found["active_parameters"] == FLOATS + 11 * 4 * 8
    moe = found["config"]["moe"]
    assert (moe["experts"], moe["top_k"], moe["size"], moe["shared_size"]) == (4, 1, 16, 0)
    assert moe["layers"] == [0, 1, 2, 3, *range(5, 12)]
    groups = {group["name"]: group["count"] for group in found["tensors"]}
    assert groups["model.layers.*.mlp.experts.*.up_proj.weight"] == 11 * 4
    told = run("inspect", str(folder)).stdout
    assert "experts 4, top_k 1, size 16" in told
    assert "layers 0-3 5-11" in told
    assert "active)" in told
    assert "12 × full_attention" in told


def test_a_model_we_cannot_run_is_inspected_all_the_same(run: Run, cache: Path) -> None:
    done = run("inspect", "org/odd", "--revision", "1", "--cache-dir", str(cache))
    assert done.exit_code == 0
    assert "helexa cannot run it: unsupported model_type 'odd'" in done.stdout


def test_a_model_that_is_not_here_names_the_way(run: Run, tmp_path: Path) -> None:
    done = run("inspect", "org/far", "--cache-dir", str(tmp_path))
    assert done.exit_code == 1
    assert done.stderr.startswith("error: 'org/far'")
    assert "hint: `helexa pull org/far` downloads it\n" in done.stderr


def pull(folder: Path, *args: str, fails: bool = False) -> Result:
    def fetch(
        model: str, revision: str, cache_dir: Path | None, progress: Progress | None
    ) -> tuple[str, Path]:
        assert progress is not None
        progress("model.safetensors", 1024, 2048)
        if fails:
            raise DownloadError("the hub went away", hint="try again")
        progress("model.safetensors", 2048, 2048)
        return f"{model}@{revision}", folder

    return CliRunner().invoke(cli, ["pull", *args], obj=Services(fetch=fetch))


def test_a_pull_prints_the_folder_and_tells_of_files(checkpoint: Write, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "m")
    done = pull(folder, "org/m", "--revision", "v2")
    assert (done.exit_code, done.stdout) == (0, f"{folder}\n")
    assert done.stderr.startswith("model.safetensors 2.0 KiB\norg/m@v2: 2 files, ")


def test_a_pull_in_json_names_every_file(checkpoint: Write, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "m")
    found = json.loads(pull(folder, "org/m", "--json").stdout)
    assert [file["name"] for file in found["files"]] == ["config.json", "model.safetensors"]
    assert found["bytes"] == sum(file["bytes"] for file in found["files"])


def test_a_pull_of_gguf_prints_the_file(tmp_path: Path) -> None:
    for i in (1, 2):
        (tmp_path / f"m-0000{i}-of-00002.gguf").write_bytes(b"GGUF")
    (tmp_path / "other.gguf").write_bytes(b"GGUF")
    first = tmp_path / "m-00001-of-00002.gguf"
    done = pull(first, "org/m")
    assert (done.exit_code, done.stdout) == (0, f"{first}\n")
    assert "org/m@main: 2 files, 8 B" in done.stderr
    found = json.loads(pull(first, "org/m", "--json").stdout)
    assert found["folder"] == str(tmp_path)


def test_a_failed_pull_says_why(tmp_path: Path) -> None:
    done = pull(tmp_path, "org/m", fails=True)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == "error: the hub went away\nhint: try again\n"


def test_what_ships_is_not_downloaded(run: Run) -> None:
    done = run("pull", "tiny")
    assert done.exit_code == 0
    assert Path(done.stdout.strip()) == Path(helexa.__file__).parent / "builtin" / "tiny"


def test_a_word_that_is_no_model_says_what_would_be(run: Run) -> None:
    for command in ("pull", "inspect"):
        done = run(command, "nonsense")
        assert done.exit_code == 1
        assert "hint: give tiny, a folder" in done.stderr


def test_versions(run: Run) -> None:
    found = json.loads(run("version", "--json").stdout)
    assert found["helexa"] == helexa.__version__
    assert found["torch"] == metadata.version("torch")
    assert found["python"] == platform.python_version()
    assert run("--version").stdout == f"helexa {helexa.__version__}\n"
    assert [line.split()[0] for line in run("version").stdout.splitlines()] == list(found)
