"""What `import helexa` offers, and what ships with it."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

import helexa


@pytest.mark.parametrize("name", helexa.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(helexa, name) is not None
    assert name in dir(helexa)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'LMM'"):
        helexa.LMM  # noqa: B018  # the look-up is the test


def test_the_version_is_the_installed_one() -> None:
    try:
        installed = metadata.version("helexa")
    except metadata.PackageNotFoundError:
        pytest.skip("helexa runs from its source folder here, it is not installed")
    assert helexa.__version__ == installed


@pytest.mark.parametrize(
    "path",
    [
        "py.typed",
        "engine/kernels/onednn_tiles.cpp",
        "builtin/tiny/config.json",
        "builtin/tiny/generation_config.json",
        "builtin/tiny/model.safetensors",
        "builtin/tiny/tokenizer.json",
        "builtin/tiny/tokenizer_config.json",
        "builtin/tiny/chat_template.jinja",
    ],
)
def test_the_package_ships(path: str) -> None:
    assert (Path(helexa.__file__).parent / path).is_file()


def test_the_built_in_model_stays_small() -> None:
    tiny = Path(helexa.__file__).parent / "builtin" / "tiny"
    assert sum(file.stat().st_size for file in tiny.rglob("*")) <= 8 * 2**20
