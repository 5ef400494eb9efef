"""Models are summarised from config and headers; damage is an error, lack of support is not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from helexa.engine.checkpoint.cache import RepoCache
from helexa.engine.checkpoint.summary import inspect_checkpoint
from helexa.errors import CheckpointError, PreflightError

Write = Callable[[Path, dict[str, bytes]], Path]


def test_a_folder(tmp_path: Path, model_files: dict[str, bytes], write: Write) -> None:
    summary = inspect_checkpoint(write(tmp_path, model_files))
    assert (summary.id, summary.model_type) == (str(tmp_path), "qwen3")
    assert (summary.parameters, summary.bytes) == (30_004, 120_008)
    assert summary.tensors == {"F32": 1, "BF16": 1}
    assert summary.files == ("model-1.safetensors", "model-2.safetensors")
    assert summary.supported
    assert summary.config is not None


def test_an_unsupported_model_is_summarised_with_the_reason(
    tmp_path: Path, model_files: dict[str, bytes], config: dict[str, object], write: Write
) -> None:
    model_files["config.json"] = json.dumps(config | {"model_type": "mamba"}).encode()
    summary = inspect_checkpoint(write(tmp_path, model_files))
    assert (summary.model_type, summary.parameters, summary.config) == ("mamba", 30_004, None)
    assert summary.why_not is not None
    assert "unsupported model_type 'mamba'" in summary.why_not
    model_files["config.json"] = b'{"model_type": 3}'
    with pytest.raises(CheckpointError, match="`model_type` must be a string"):
        inspect_checkpoint(write(tmp_path, model_files))
    model_files["config.json"] = b"{}"
    assert inspect_checkpoint(write(tmp_path, model_files)).model_type == "unknown"


def test_an_unsupported_dtype_is_told(
    tmp_path: Path, model_files: dict[str, bytes], write: Write, pack: Callable[..., bytes]
) -> None:
    model_files["model-2.safetensors"] = pack({"b": ("I64", (4,))})
    summary = inspect_checkpoint(write(tmp_path, model_files))
    assert summary.why_not == "tensor 'b' has dtype I64"
    assert not summary.supported


def test_a_cached_model_needs_no_hub(
    tmp_path: Path, model_files: dict[str, bytes], write: Write
) -> None:
    cache = RepoCache(tmp_path, "org", "name")
    write(cache.snapshot("c1"), model_files)
    cache.write_ref("main", "c1")
    assert inspect_checkpoint("org/name", cache_dir=tmp_path).parameters == 30_004
    assert inspect_checkpoint("org/name", revision="c1", cache_dir=tmp_path).id == "org/name"
    with pytest.raises(PreflightError, match="fetch it first") as caught:
        inspect_checkpoint("org/other", environ={"HF_HUB_CACHE": str(tmp_path)})
    assert caught.value.kind == "repo_fetch_failed"


def test_damage_is_an_error(tmp_path: Path, model_files: dict[str, bytes], write: Write) -> None:
    model_files["model-1.safetensors"] = model_files["model-1.safetensors"][:-1]
    with pytest.raises(CheckpointError, match="truncated"):
        inspect_checkpoint(write(tmp_path, model_files))
    (tmp_path / "m.gguf").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"m\.gguf is empty"):
        inspect_checkpoint(tmp_path / "m.gguf")


def test_summaries_do_not_load_torch() -> None:
    code = (
        "import sys, helexa.engine.checkpoint.summary, helexa.engine.checkpoint.cache;"
        "sys.exit(bool({'torch', 'httpx', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
