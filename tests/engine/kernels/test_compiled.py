"""What is compiled gives what its definition gives; what cannot be compiled is refused."""

from __future__ import annotations

import threading
import time

import pytest
import torch
from torch import Tensor
from torch._inductor import config as inductor

from helexa.engine.kernels import compiled
from helexa.engine.kernels.compiled import Compiler, require_compiler
from helexa.errors import InvalidRequest
from tests.engine.compilers import needs_compiler


def scaled_sum(factor: int, x: Tensor, y: Tensor) -> Tensor:
    return (x * y * factor).sum(-1)


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@needs_compiler
def test_a_kernel_is_its_definition_made_faster() -> None:
    compiler = Compiler()
    x, y = drawn(3, 40), drawn(3, 40)
    kernel = compiler.kernel(scaled_sum, (3,), [x, y])
    before = kernel(x, y)
    assert list(compiler.compile()) == []
    assert kernel.run is kernel.definition
    kernel.wanted = True
    assert list(compiler.compile()) == [1]
    assert kernel.run is not kernel.definition
    assert torch.allclose(kernel(x, y), before, rtol=1e-5, atol=1e-6)
    made = kernel.run
    assert list(compiler.compile()) == [1]
    assert kernel.run is made


def test_equal_kernels_are_one() -> None:
    compiler = Compiler()
    one = compiler.kernel(scaled_sum, (3,), [drawn(3, 40), drawn(3, 40)])
    assert compiler.kernel(scaled_sum, (3,), [drawn(3, 40), drawn(3, 40)]) is one
    assert compiler.kernel(scaled_sum, (2,), [drawn(3, 40), drawn(3, 40)]) is not one
    assert compiler.kernel(scaled_sum, (3,), [drawn(2, 40), drawn(2, 40)]) is not one
    assert compiler.kernel(scaled_sum, (3,), [drawn(3, 40), drawn(3, 40).half()]) is not one
    assert compiler.kernel(scaled_sum, (3,), [drawn(40, 3).T, drawn(3, 40)]) is not one
    assert compiler.kernel(scaled_sum, (3,), [drawn(3, 40), drawn(3, 40)], free=(0,)) is not one
    assert len(compiler) == 0
    one.wanted = True
    assert compiler.wanted() == [one]


def test_a_machine_without_a_compiler_is_told() -> None:
    with (
        inductor.patch({"cpp.cxx": ("no-such-compiler",)}),
        pytest.raises(InvalidRequest, match=r"needs a C\+\+ compiler") as caught,
    ):
        require_compiler()
    assert caught.value.param == "compile"
    assert "install g++" in str(caught.value.hint)


def test_a_compiler_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise RuntimeError("no Python.h")

    monkeypatch.setattr(compiled, "compiled", fail)
    compiler = Compiler()
    compiler.kernel(scaled_sum, (3,), [drawn(1, 4), drawn(1, 4)]).wanted = True
    with pytest.raises(InvalidRequest, match=r"no Python\.h"):
        list(compiler.compile())


def test_one_is_traced_at_a_time() -> None:
    """Others would meet what the tracer has put in place of torch's functions."""
    inside: list[int] = []
    most: list[int] = []

    def slow(x: Tensor) -> Tensor:
        inside.append(1)
        time.sleep(0.1)
        most.append(len(inside))
        inside.pop()
        raise RuntimeError("enough")

    def trace() -> None:
        with pytest.raises(RuntimeError, match="enough"):
            compiled.compiled(slow, [drawn(3)])

    threads = [threading.Thread(target=trace) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1]
