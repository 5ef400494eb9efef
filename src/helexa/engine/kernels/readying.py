"""What torch's compiler does before its first kernel, done while weights are read.

It imports a thousand modules, asks a process of its own whether the instructions that this CPU
claims can be used, and imports more as it compiles something for the first time: 2.4 s on two cores
of an AMD EPYC, whatever is compiled, even if it lies finished in its cache on disk.
"""

from __future__ import annotations

import importlib
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from helexa.engine.kernels.compiled import compiled, report_damaged
from helexa.engine.kernels.compiler_cache import cache_folder, drop_damaged, import_compiler

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from helexa.engine.kernels.compiled import Compiler

FIRST = ("torch._inductor.codecache", "torch._inductor.cpu_vec_isa", "torch.utils.cpp_extension")
"""What asking for instructions imports, and compiling: never by two threads at a time."""
THEN = ("torch._inductor.compile_fx", "torch._inductor.standalone_compile")
THREADS = "helexa-compiler"


@contextmanager
def readied(compiler: Compiler | None) -> Iterator[None]:
    """Make torch's compiler ready while the block runs, if there is to be one.

    The block waits for that, also where it fails: but then for no more than what is being done. It
    must not warn. Errors are left to who compiles next, who meets them again.
    """
    if compiler is None:
        yield
        return
    stop = threading.Event()
    with warnings.catch_warnings(), ThreadPoolExecutor(1, THREADS) as pool:
        warnings.simplefilter("ignore")  # as for `compiled`
        pool.submit(make_ready, stop)
        try:
            yield
        except BaseException:
            stop.set()
            raise


def make_ready(stop: threading.Event) -> None:
    """Import, look for instructions meanwhile, compile; leave out what follows a ``stop``."""
    if not stop.is_set():
        import_compiler()
    for module in FIRST:
        if not stop.is_set():
            importlib.import_module(module)
    if stop.is_set():
        return
    from torch._inductor.cpu_vec_isa import valid_vec_isa_list

    report_damaged(drop_damaged(cache_folder()))  # before any is loaded
    with ThreadPoolExecutor(1, THREADS) as pool:
        pool.submit(valid_vec_isa_list)  # torch keeps what it finds
        for module in THEN:
            if not stop.is_set():
                importlib.import_module(module)
    if not stop.is_set():
        compiled(doubled_sum, [torch.empty(3, 5)])


def doubled_sum(x: Tensor) -> Tensor:
    """Something to compile."""
    return (2 * x).sum(-1)
