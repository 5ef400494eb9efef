"""Operators compiled for this machine by torch's compiler, which needs one for C++.

A kernel's definition is a plain function of tensors. Until it is compiled, it is run as it is; then
as one loop or a few over all of its tensors, for the very shapes it was asked for, without a look
at them: whoever asks must bring contiguous tensors of these shapes. What torch compiles is kept in
its cache on disk (TORCHINDUCTOR_CACHE_DIR), so that only the first start on a machine takes long.
"""

from __future__ import annotations

import logging
import os
import threading
import warnings
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch

from helexa.engine.kernels.compiler_cache import (
    VARIABLE,
    cache_folder,
    drop_damaged,
    empty_cache,
    import_compiler,
)
from helexa.engine.kernels.compiler_failure import HINT, failure, reason
from helexa.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Sequence
    from pathlib import Path

    from torch import Tensor

OPTIONS = {
    "cpp_wrapper": True,  # what is around loops is C++, which calls them faster than Python
    "cpp.dynamic_threads": True,  # as many as torch has when it runs, not when it was compiled
    "cpp.enable_floating_point_contract_flag": "fast",  # a · b + c rounds once
    "compile_threads": 1,  # no helper processes, which would stay
    "size_asserts": False,  # whoever asks has looked, and each takes its time in every call
    "alignment_asserts": False,
    "cpp.max_horizontal_fusion_size": 256,  # sums over the same words are one loop, however many
    "realize_reads_threshold": 64,  # what is to be kept says so itself, see `realised`
    "realize_opcount_threshold": 1000,
}
MOST_SUMS = 64
"""Of one loop, unless something else is said."""
FAILURES = (RuntimeError, OSError, ImportError)
"""What torch raises where compiling fails, or loading what was compiled."""
TRACING = threading.Lock()
"""torch's tracer changes functions of torch itself while it works: one at a time in a process."""

log = logging.getLogger(__name__)


Layout = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]


class Kernel:
    """A function of tensors that becomes faster once it is compiled, which is what ``make`` does.

    Unless it is ``wanted``, a compiler leaves it as it is.
    """

    def __init__(
        self, definition: Callable[..., Any], make: Callable[[], Callable[..., Any]]
    ) -> None:
        self.run = definition
        self.definition = definition
        self.make = make
        self.wanted = False

    def __call__(self, *tensors: Tensor) -> Any:
        return self.run(*tensors)

    def compile(self) -> None:
        """Make `run` fast. Raises what ``make`` raises."""
        if self.run is self.definition:
            self.run = self.make()


@dataclass(frozen=True, slots=True)
class Loops:
    """What torch makes a kernel of: a ``definition`` for tensors of these ``layouts``.

    Of those in ``free`` only the number of axes is fixed. A loop makes at most ``sums``.
    """

    definition: Callable[..., Any]
    layouts: tuple[Layout, ...]
    free: tuple[int, ...]
    sums: int

    def make(self) -> Callable[..., Any]:
        """The definition, compiled. Raises what torch raises."""
        example = [torch.empty_strided(*at, dtype=dtype) for *at, dtype in self.layouts]
        definition = self.pinned if self.free else self.definition
        return compiled(definition, example, dynamic=bool(self.free), sums=self.sums)

    def pinned(self, *tensors: Tensor) -> Any:
        """The definition, of tensors whose sizes are numbers where they are not free."""
        return self.definition(
            *(
                tensor if index in self.free else tensor.as_strided(size, stride)
                for index, (tensor, (size, stride, _)) in enumerate(
                    zip(tensors, self.layouts, strict=True)
                )
            )
        )


class Compiler:
    """The kernels of a model: each is compiled once, however many layers share it."""

    def __init__(self) -> None:
        self._kernels: dict[Hashable, Kernel] = {}
        self._lock = threading.Lock()

    def kernel(
        self,
        function: Callable[..., Any],
        statics: tuple[Hashable, ...],
        example: Sequence[Tensor],
        free: tuple[int, ...] = (),
        sums: int = MOST_SUMS,
    ) -> Kernel:
        """The kernel ``function(*statics, *tensors)`` for tensors laid out like the examples.

        Those at the places in ``free`` may have other sizes and strides: where these may differ,
        they must in the examples, from all others and from 0 and 1. Examples are not read. One
        loop makes no more than ``sums``, so that they stay in registers.
        """
        layouts = tuple((tuple(e.shape), tuple(e.stride()), e.dtype) for e in example)
        loops = Loops(partial(function, *statics), layouts, free, sums)
        made = partial(Kernel, loops.definition, loops.make)
        return self.shared((function, statics, layouts, free, sums), made)

    def shared(self, key: Hashable, make: Callable[[], Kernel]) -> Kernel:
        """The kernel of this name, made unless there is one."""
        with self._lock:  # layers are loaded side by side
            if key not in self._kernels:
                self._kernels[key] = make()
            return self._kernels[key]

    def __len__(self) -> int:
        return len(self.wanted())

    def wanted(self) -> list[Kernel]:
        """Those that are to be compiled."""
        return [kernel for kernel in self._kernels.values() if kernel.wanted]

    def compile(self) -> Iterator[int]:
        """Compile what is wanted, one by one: yields how many there are so far.

        For one thread, once everything is loaded. What fails with the folder that torch keeps is
        tried once more in an empty one. Raises InvalidRequest if that fails, too.
        """
        with ExitStack() as stack:
            elsewhere = False
            for done, kernel in enumerate(self.wanted(), 1):
                try:
                    if done == 1:
                        report_damaged(drop_damaged(cache_folder()))
                    kernel.compile()
                except FAILURES as error:
                    if elsewhere:
                        raise failure(error) from error
                    folder = os.environ.get(VARIABLE, "its folder")
                    log.warning(
                        "compiling in %s failed, now in an empty one: %s", folder, reason(error)
                    )
                    elsewhere = True
                    compile_elsewhere(kernel, stack)
                yield done


def compile_elsewhere(kernel: Kernel, stack: ExitStack) -> None:
    """Compile it in an empty folder, which stays until the stack is closed.

    Raises InvalidRequest.
    """
    try:
        stack.enter_context(empty_cache())
        kernel.compile()
    except FAILURES as error:
        raise failure(error) from error


def report_damaged(files: Sequence[Path]) -> None:
    """Say what was deleted."""
    for file in files:
        log.warning("deleted %s, half a library of a compiler that was interrupted", file)


def realised(x: Tensor) -> Tensor:
    """The same numbers, contiguous, which a compiler is to keep and not to compute where needed.

    torch's would repeat what a product's activations are made by for each row of the matrix.
    """
    x = x.contiguous()
    return x.as_strided(x.shape, x.stride())


def compiled(
    definition: Callable[..., Any],
    example: Sequence[Tensor],
    *,
    dynamic: bool = False,
    sums: int = MOST_SUMS,
) -> Callable[..., Any]:
    """The function as torch compiles it for tensors like the examples, and only for such.

    With ``dynamic``, for any sizes and strides; of many ``sums`` over the same numbers, some are
    made in another loop (see `Compiler.kernel`).

    Not `torch.compile`: that looks at each call's arguments, which takes longer than many a kernel.
    """
    with TRACING, warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # torch warns of what is old within itself
        from torch._inductor import standalone_compile
        from torch.fx.experimental.proxy_tensor import make_fx

        graph = make_fx(definition, tracing_mode="symbolic" if dynamic else "fake")(*example)
        options: dict[str, Any] = {"config_patches": {**OPTIONS, "max_fusion_size": sums}}
        shapes: Any = "from_graph" if dynamic else "from_example_inputs"
        found = standalone_compile(graph, list(example), dynamic_shapes=shapes, options=options)
    return cast("Callable[..., Any]", found)


def require_compiler() -> None:
    """Raise InvalidRequest where there is no C++ compiler that torch could use.

    That torch's folder cannot be used is no reason: `Compiler.compile` can do without.
    """
    try:
        import_compiler()
    except OSError as error:
        raise failure(error) from error
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        found, hint = "none was found", HINT
        if named := os.environ.get("CXX"):
            found, hint = f"CXX names one that does not run: {named}", "name another, or unset CXX"
        raise InvalidRequest(
            f"`compile` needs a C++ compiler, and {found}", param="compile", hint=hint
        ) from error
