"""The engines under measurement, behind one function each: run a prompt, decode, tell the times.

Every engine lives in a process of its own and answers one measurement at a time, so that all of
them stay loaded while they take turns.
"""

from __future__ import annotations

import importlib.util
import random
import time
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from helexa.engine.core import EngineCore
    from helexa.engine.outputs import Request

PLAIN = "16 bit"
COMPILED = "helexa, compiled"
CONTEXT = 4096
"""Tokens of prompt and answer for which each has room."""
MODULES = {
    "helexa": "helexa",
    COMPILED: "helexa",
    "transformers": "transformers",
    "llama.cpp": "llama_cpp",
}


@dataclass(frozen=True, slots=True)
class Work:
    """One measurement: a prompt of ``prompt`` random tokens, then ``decode`` greedy ones."""

    prompt: int
    decode: int
    seed: int


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds from the start to the first token, and from the first token to the last."""

    prefill_s: float
    decode_s: float


class Engine(Protocol):
    """A loaded model that can be timed."""

    def __call__(self, ids: list[int], decode: int) -> Times: ...


def available(engine: str, format: str = PLAIN) -> bool:
    """Whether the engine's package is installed, and runs weights of this format."""
    runs = format == PLAIN or engine != "transformers"
    return runs and importlib.util.find_spec(MODULES[engine]) is not None


def measured_one(engines: Collection[str]) -> str:
    """Whose ratios to the others are told: helexa's, compiled if that is measured."""
    return COMPILED if COMPILED in engines else "helexa"


def helexa_core(folder: Path, format: str, threads: int, *, compile: bool = False) -> EngineCore:
    """A core for one stream that remembers no prompt."""
    import torch

    from benchmarks.gguf_export import export_gguf
    from helexa.engine.build import build_core
    from helexa.engine.config import EngineConfig

    torch.set_num_threads(threads)
    config = EngineConfig(
        max_batch=1, prefix_cache=False, kv_context_tokens=CONTEXT, compile=compile
    )
    model = folder if format == PLAIN else export_gguf(folder, format)
    return build_core(str(model), config)


def greedy(ids: list[int], tokens: int) -> Request:
    """A request for so many tokens, whatever they are."""
    from helexa.engine.outputs import Request
    from helexa.engine.params import SamplingParams

    params = SamplingParams(max_tokens=tokens, temperature=0, ignore_eos=True)
    return Request(tuple(ids), params)


def helexa_engine(folder: Path, format: str, threads: int, *, compile: bool = False) -> Engine:
    core = helexa_core(folder, format, threads, compile=compile)

    def run(ids: list[int], decode: int) -> Times:
        begin = time.perf_counter()
        core.submit(greedy(ids, decode))
        first = 0.0
        while not core.idle:
            for output in core.step():
                if output.token_ids and not first:
                    first = time.perf_counter()
        return Times(first - begin, time.perf_counter() - first)

    return run


def transformers_engine(folder: Path, format: str, threads: int) -> Engine:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, attn_implementation="sdpa"
    ).eval()

    @torch.inference_mode()
    def run(ids: list[int], decode: int) -> Times:
        begin = time.perf_counter()
        out = model(torch.tensor([ids]), use_cache=True, logits_to_keep=1)
        token = out.logits[:, -1:].argmax(-1)
        first = time.perf_counter()
        for _ in range(decode - 1):
            out = model(token, past_key_values=out.past_key_values, use_cache=True)
            token = out.logits[:, -1:].argmax(-1)
        return Times(first - begin, time.perf_counter() - first)

    return run


def llama_cpp_engine(folder: Path, format: str, threads: int) -> Engine:
    import llama_cpp
    import numpy as np

    from benchmarks.gguf_export import export_gguf

    path = export_gguf(folder, format)
    model = llama_cpp.Llama(
        str(path), n_ctx=CONTEXT, n_threads=threads, n_threads_batch=threads, verbose=False
    )

    def run(ids: list[int], decode: int) -> Times:
        begin = time.perf_counter()
        model.reset()
        model.eval(ids)
        token = _best(model, np)
        first = time.perf_counter()
        for _ in range(decode - 1):
            model.eval([token])
            token = _best(model, np)
        return Times(first - begin, time.perf_counter() - first)

    return run


def _best(model: Any, np: Any) -> int:
    """The greedy token from llama.cpp's own logits, with no sampler in between."""
    import llama_cpp

    logits = llama_cpp.llama_get_logits_ith(model.ctx, -1)
    return int(np.ctypeslib.as_array(logits, shape=(model.n_vocab(),)).argmax())


ENGINES: dict[str, Callable[[Path, str, int], Engine]] = {
    "helexa": helexa_engine,
    COMPILED: partial(helexa_engine, compile=True),
    "transformers": transformers_engine,
    "llama.cpp": llama_cpp_engine,
}


class Worker:
    """An engine in a process of its own."""

    def __init__(self, name: str, folder: Path, format: str, threads: int) -> None:
        context = get_context("spawn")
        self.name = name
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(name, str(folder), format, threads, theirs), daemon=True
        )
        self._process.start()
        self._receive()

    def measure(self, work: Work) -> Times:
        self._pipe.send(asdict(work))
        return Times(**self._receive())

    def close(self) -> None:
        self._pipe.send(None)
        self._process.join(30)

    def _receive(self) -> Any:
        try:
            answer = self._pipe.recv()
        except EOFError:
            raise SystemExit(f"the {self.name} worker died; its error is above") from None
        return answer


def random_ids(work: Work) -> list[int]:
    """The prompt of a measurement."""
    chosen = random.Random(work.seed)
    return [chosen.randrange(100, 8000) for _ in range(work.prompt)]


def _serve(name: str, folder: str, format: str, threads: int, pipe: Connection) -> None:
    engine = ENGINES[name](Path(folder), format, threads)
    engine(list(range(100, 108)), 3)
    pipe.send("ready")
    while (sent := pipe.recv()) is not None:
        work = Work(**sent)
        pipe.send(asdict(engine(random_ids(work), work.decode)))
