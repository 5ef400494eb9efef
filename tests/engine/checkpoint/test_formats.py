"""Which files make up a model, decided from their names."""

from __future__ import annotations

import pytest

from helexa.engine.checkpoint.formats import (
    check_path,
    choose_gguf,
    dense_files,
    detect_format,
    small_files,
)
from helexa.errors import DownloadError, PreflightError

GGUFS = ["mmproj-F16.gguf", "m-Q8_0.gguf", "m-Q6_K.gguf", "m-IQ4_XS.gguf", "sub/mmproj.gguf"]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["a.gguf", "config.json"], "gguf"),
        (["model.safetensors"], "dense"),
        (["model-1.safetensors", "model.safetensors.index.json"], "dense"),
        (["model.safetensors", "a.gguf"], "mixed"),
        (["config.json"], "empty"),
        (["model_index.json", "a.gguf", "b.safetensors"], "diffusers"),
        (["unet/model_index.json", "a.safetensors"], "dense"),
    ],
)
def test_e026_formats(files: list[str], expected: str) -> None:
    assert detect_format(files) == expected


@pytest.mark.parametrize(
    ("quant", "expected"),
    [("Q6_K", "m-Q6_K.gguf"), ("q6k", "m-Q6_K.gguf"), (None, "m-IQ4_XS.gguf"), ("q8_0", GGUFS[1])],
)
def test_e027_gguf_choice(quant: str | None, expected: str) -> None:
    assert choose_gguf(GGUFS, quant) == expected


@pytest.mark.parametrize("quant", ["q9", "F16", "mmproj"])
def test_e027_no_such_gguf(quant: str) -> None:
    with pytest.raises(PreflightError, match=r"m-Q6_K\.gguf") as caught:
        choose_gguf(GGUFS, quant)
    assert caught.value.kind == "quant_not_found"
    assert caught.value.available == ("m-IQ4_XS.gguf", "m-Q6_K.gguf", "m-Q8_0.gguf")


def test_e027_gguf_runs_on_one_device() -> None:
    with pytest.raises(PreflightError) as caught:
        choose_gguf(GGUFS, "q6k", world_size=2)
    assert caught.value.kind == "tp_requires_safetensors"


def test_wanted_files() -> None:
    files = ["tokenizer.json", "README.md", "config.json", "model.safetensors", "x.safetensors"]
    assert small_files(files) == ["config.json", "tokenizer.json"]
    assert dense_files(files, []) == ["model.safetensors"]
    assert dense_files(files, ["b", "a", "b"]) == ["a", "b"]


@pytest.mark.parametrize("file", ["../a", "a/../b", "/a", "C:\\a", "C:a", "", ".", "a\0b"])
def test_names_that_leave_the_folder(file: str) -> None:
    with pytest.raises(DownloadError):
        check_path(file)


@pytest.mark.parametrize("file", ["a", "a/b.json", "..a", "a..b/c"])
def test_names_that_stay(file: str) -> None:
    check_path(file)
