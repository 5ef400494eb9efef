"""A model that answers at once and the click runner that uses it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from safetensors.numpy import save_file

from helexa.cli.main import cli
from helexa.cli.services import Services
from helexa.engine.hardware import Gpu, HostMemory
from helexa.engine.params import SamplingParams
from helexa.text.events import Event, Finish, Reasoning, Text, Usage

USAGE = Usage(
    prompt_tokens=10,
    completion_tokens=4,
    reasoning_tokens=1,
    cached_tokens=8,
    prefill_ms=5.0,
    decode_ms=30.0,
    prefill_tokens=10,
)
GIB = 2**30
INFO = {"max_context": 2048, "parameters": 4_100_000, "dtype": "float32", "device": "cpu"}


@dataclass
class FakeModel:
    """Answers each request with the next script of events; notes what it was asked and aborted.

    A script may hold exceptions, which are raised where they stand.
    """

    scripts: list[Sequence[Event | BaseException]] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    aborted: int = 0
    closed: bool = False
    info: Any = field(default_factory=lambda: SimpleNamespace(**INFO))
    status: Any = None

    def stream(self, prompt: str, params: SamplingParams | None = None) -> Iterator[Event]:
        self.asked.append({"prompt": prompt, "params": params})
        return self._play()

    def stream_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        params: SamplingParams | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        enable_thinking: bool | None = None,
    ) -> Iterator[Event]:
        self.asked.append(
            {"messages": list(messages), "params": params, "tools": tools, "think": enable_thinking}
        )
        return self._play()

    def _play(self) -> Iterator[Event]:
        script = self.scripts.pop(0) if self.scripts else [Text("hello"), Finish("stop", USAGE)]
        finished = False
        try:
            for step in script:
                if isinstance(step, BaseException):
                    raise step
                finished = isinstance(step, Finish)
                yield step
        finally:
            self.aborted += not finished

    def __enter__(self) -> FakeModel:
        return self

    def __exit__(self, *exc: object) -> None:
        self.closed = True


@pytest.fixture
def model() -> FakeModel:
    return FakeModel()


@pytest.fixture
def checkpoint() -> Callable[[Path], Path]:
    """Writes a small qwen3 checkpoint of zeros into a folder: 12 layers of width 8, float32."""

    def write(folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        config = {
            "model_type": "qwen3",
            "architectures": ["Qwen3ForCausalLM"],
            "vocab_size": 32,
            "hidden_size": 8,
            "intermediate_size": 16,
            "num_hidden_layers": 12,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 4,
            "max_position_embeddings": 256,
            "tie_word_embeddings": True,
        }
        (folder / "config.json").write_text(json.dumps(config))
        layer = {
            "self_attn.q_proj": (8, 8),
            "self_attn.k_proj": (4, 8),
            "self_attn.v_proj": (4, 8),
            "self_attn.o_proj": (8, 8),
            "self_attn.q_norm": (4,),
            "self_attn.k_norm": (4,),
            "mlp.gate_proj": (16, 8),
            "mlp.up_proj": (16, 8),
            "mlp.down_proj": (8, 16),
            "input_layernorm": (8,),
            "post_attention_layernorm": (8,),
        }
        shapes: dict[str, tuple[int, ...]] = {"embed_tokens": (32, 8), "norm": (8,)}
        for index in range(12):
            shapes |= {f"layers.{index}.{name}": shape for name, shape in layer.items()}
        tensors = {f"model.{n}.weight": np.zeros(s, np.float32) for n, s in shapes.items()}
        save_file(tensors, folder / "model.safetensors")
        return folder

    return write


Run = Callable[..., Result]


@pytest.fixture
def run(model: FakeModel) -> Run:
    """Run a command line; ``typed`` lines make it interactive, exceptions among them are raised."""

    def go(*args: str, typed: Sequence[str | BaseException] | None = None, **kw: Any) -> Result:
        lines = iter(typed or ())

        def read_line(_prompt: str) -> str:
            line = next(lines, EOFError())
            if isinstance(line, BaseException):
                raise line
            return line

        world = Services(
            load=lambda _model, _options, _progress: model,
            read_line=read_line,
            interactive=lambda: typed is not None,
            host_memory=lambda: HostMemory(64 * GIB, 32 * GIB),
            gpus=lambda: (Gpu(0, "A Card", 24 * GIB, 1 * GIB),),
        )
        return CliRunner().invoke(cli, list(args), prog_name="helexa", obj=world, **kw)

    return go


@pytest.fixture
def thinking() -> Sequence[Event]:
    return [Reasoning("hmm "), Reasoning("so"), Text("four"), Finish("stop", USAGE)]
