"""torch's compiler becomes ready beside other work, which it neither fails nor outlives."""

from __future__ import annotations

import os
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from helexa.engine.kernels import readying
from helexa.engine.kernels.compiled import Compiler
from helexa.engine.kernels.readying import readied
from helexa.engine.loading import load_model
from helexa.errors import CheckpointError, InvalidRequest
from tests.engine.compilers import needs_compiler
from tests.engine.models.families import Family


def threads() -> list[str]:
    """Of the readying, those that run."""
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith("helexa-compiler")]


def doubled(x: Tensor) -> Tensor:
    return 2 * x


@needs_compiler
def test_what_every_kernel_needs_is_done_when_the_block_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from torch._inductor.cpu_vec_isa import valid_vec_isa_list

    done: list[Any] = []
    compile = readying.compiled

    def counted(*args: Any, **options: Any) -> Any:
        done.append(compile(*args, **options))
        return done[-1]

    monkeypatch.setattr(readying, "compiled", counted)
    valid_vec_isa_list.cache_clear()
    filters = list(warnings.filters)
    with readied(Compiler()):
        assert threads()
    assert not threads()
    assert valid_vec_isa_list.cache_info().currsize == 1
    x = torch.arange(15.0).view(3, 5)
    assert [found(x).tolist() for found in done] == [[20.0, 70.0, 120.0]]
    assert warnings.filters == filters


def test_without_a_compiler_nothing_begins() -> None:
    with readied(None):
        assert not threads()


def test_a_block_that_fails_waits_for_no_more_than_one_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    began, ended = threading.Event(), threading.Event()
    imported = []

    def slowly(module: str) -> None:
        imported.append(module)
        began.set()
        time.sleep(0.05)
        ended.set()

    monkeypatch.setattr(readying.importlib, "import_module", slowly)
    monkeypatch.setattr(readying, "compiled", lambda *_, **__: pytest.fail("it went on"))
    with pytest.raises(KeyboardInterrupt), readied(Compiler()):
        assert began.wait(10)
        raise KeyboardInterrupt
    assert ended.is_set()
    assert not threads()
    assert imported == ["torch._inductor.cpp_builder"]


def test_errors_are_those_of_who_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise RuntimeError("no Python.h")

    monkeypatch.setattr(readying, "compiled", fail)
    monkeypatch.setattr("helexa.engine.kernels.compiled.compiled", fail)
    compiler = Compiler()
    with readied(compiler):
        compiler.kernel(doubled, (), [torch.empty(1, 4)]).wanted = True
    with pytest.raises(InvalidRequest, match=r"no Python\.h"):
        list(compiler.compile())


@needs_compiler
def test_a_load_that_fails_leaves_nothing_running(tmp_path: Path) -> None:
    """The tensors of half the model: found out while they are read."""
    whole = Family("qwen3", fields={"num_hidden_layers": 2}).save(tmp_path / "whole").folder
    path = whole / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match="up_proj"):
        load_model(whole, device="cpu", compile=True, disabled=())
    assert not threads()


@needs_compiler
def test_half_a_library_is_deleted_before_any_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "ab" / "half.so"
    broken.parent.mkdir()
    broken.write_bytes(b"\x7fELF\x02\x01")
    os.utime(broken, (0, 0))
    left: list[bool] = []
    monkeypatch.setattr(readying, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(readying, "compiled", lambda *_: left.append(broken.exists()))
    with readied(Compiler()):
        pass
    assert left == [False]
