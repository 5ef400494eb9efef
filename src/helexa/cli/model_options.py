"""Options of the commands that run a model, each group read into one value."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from helexa.cli.options import cache_dir_option, offline_option, revision_option
from helexa.errors import InvalidRequest

if TYPE_CHECKING:
    from helexa.engine.params import SamplingParams

Function = TypeVar("Function", bound=Callable[..., Any])
Decorator = Callable[[Function], Function]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """How a model is found and where it runs; None leaves the choice to the library."""

    device: str = "auto"
    dtype: str = "auto"
    quant: str | None = None
    compile: bool = False
    drafter: str | None = None
    max_context: int | None = None
    kv_memory_mb: int | None = None
    offline: bool = False
    revision: str = "main"
    cache_dir: Path | None = None

    def arguments(self) -> dict[str, Any]:
        """As keyword arguments of ``helexa.LLM``."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingOptions:
    """What the command line says of sampling; None is not said."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    stop: tuple[str, ...] = ()
    min_tokens: int | None = None
    ignore_eos: bool | None = None

    def params(self) -> SamplingParams:
        """As checked parameters. Raises click.BadParameter, naming the option."""
        from helexa.engine.params import SamplingParams

        said = {f.name: getattr(self, f.name) for f in fields(self)}
        with usage_errors():
            return SamplingParams(**{k: v for k, v in said.items() if v is not None})


_LOAD = (
    click.option(
        "--device",
        default="auto",
        show_default=True,
        help="auto (first GPU, else CPU), cpu, cuda or cuda:N.",
    ),
    click.option(
        "--dtype", default="auto", show_default=True, help="auto, float32, bfloat16 or float16."
    ),
    click.option("--quant", help="Quantise at load (q8_0, q4_k, …); GGUF: part of a file's name."),
    click.option("--compile", is_flag=True, help="Compile kernels for this CPU (needs g++)."),
    click.option("--drafter", help="lookup: guess tokens ahead that stood in the text before."),
    click.option("--max-context", type=int, help="Longest prompt plus answer, in tokens."),
    click.option("--kv-memory-mb", type=int, help="Memory for the KV cache, in MiB."),
    offline_option,
    revision_option,
    cache_dir_option,
)

_SAMPLING = (
    click.option("-n", "--max-tokens", type=int, help="Longest answer, in tokens."),
    click.option(
        "-t",
        "--temperature",
        type=click.FloatRange(min=0),
        help="0 always takes the likeliest token.",
    ),
    click.option("--top-p", type=float, help="Draw from this much probability; 1 is off."),
    click.option("--top-k", type=int, help="Draw from this many tokens; 0 is off."),
    click.option("--min-p", type=float, help="Drop tokens below this share of the likeliest."),
    click.option("--seed", type=int, help="The same seed gives the same text."),
    click.option("--repetition-penalty", type=float, help="Above 1 discourages repeats."),
    click.option("--presence-penalty", type=float, help="-2 to 2, once per token used before."),
    click.option("--frequency-penalty", type=float, help="-2 to 2, for every use before."),
    click.option("--stop", multiple=True, help="End the answer before this text; repeatable."),
    click.option("--min-tokens", type=int, help="Do not end before this many tokens."),
    click.option("--ignore-eos", is_flag=True, default=None, help="Run to --max-tokens."),
)


def gathered(name: str, kind: type[Any], options: Sequence[Decorator[Any]]) -> Decorator[Any]:
    """Put options on a command and hand them to it as one value, the argument ``name``.

    ``kind`` is a dataclass whose fields are the options' parameter names.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def gather(*args: Any, **given: Any) -> Any:
            picked = {f.name: given.pop(f.name) for f in fields(kind)}
            return command(*args, **given, **{name: kind(**picked)})

        for option in reversed(options):
            gather = option(gather)
        return gather

    return decorate


load_options = gathered("load", LoadOptions, _LOAD)
sampling_options = gathered("sampling", SamplingOptions, _SAMPLING)


@contextmanager
def usage_errors(ctx: click.Context | None = None) -> Iterator[None]:
    """Turn a refusal of a value that came from an option into a usage error that names it."""
    try:
        yield
    except InvalidRequest as error:
        flag = f"--{(error.param or '').replace('_', '-')}"
        ctx = ctx or click.get_current_context(silent=True)
        flags = [name for p in ctx.command.params for name in p.opts] if ctx else [flag]
        if flag not in flags:
            raise
        raise click.BadParameter(str(error), ctx=ctx, param_hint=f"'{flag}'") from error
