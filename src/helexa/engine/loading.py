"""From a checkpoint to a model that runs."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, cast

import torch

from helexa.engine.checkpoint.checkpoint import open_checkpoint
from helexa.engine.checkpoint.counting import numbers
from helexa.engine.checkpoint.files import KERNELS
from helexa.engine.checkpoint.reference import Variant
from helexa.engine.checkpoint.weights import Weights
from helexa.engine.config import DTYPES, EngineConfig, switches
from helexa.engine.kernels.compiled import Compiler, require_compiler
from helexa.engine.kernels.narrow_product import multiplies_bfloat16
from helexa.engine.kernels.readying import readied
from helexa.engine.kernels.stored_matrix import has_triton
from helexa.engine.layers.decoder import DecoderLayer
from helexa.engine.memory import SMALL_KV
from helexa.engine.models.model import decoder_part
from helexa.engine.models.registry import MODELS
from helexa.engine.numerics import Numerics
from helexa.engine.pages import prefer_large_pages
from helexa.engine.quant.blocks.types import BLOCK_TYPES
from helexa.engine.quant.dense import FLOAT16_MAX, DenseFormat
from helexa.engine.quant.insitu import BlockFormat, linear_format
from helexa.engine.quant.names import is_plain
from helexa.engine.quantization_config import refuse_quant
from helexa.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from torch import Tensor, nn

    from helexa.engine.checkpoint.checkpoint import Checkpoint
    from helexa.engine.checkpoint.files import Progress
    from helexa.engine.config import ModelConfig
    from helexa.engine.models.model import Model

log = logging.getLogger(__name__)

NEEDED = frozenset({"compile", "quant_kernels"})
"""The switches without which nothing is compiled."""
EMBEDDING = "embed_tokens.weight"
LARGEST_KEPT = FLOAT16_MAX * (1 - 2.0**-6)
"""A bound of keys and values that float16 holds even if products are rounded to bfloat16."""
UNSEEN = ("model.visual.*", "visual.*")
"""A vision tower's tensors: models are loaded for text."""


class HubOptions(TypedDict, total=False):
    """How the hub is used for a model given by name; absent ones are `open_checkpoint`'s."""

    revision: str
    cache_dir: str | Path | None
    offline: bool
    token: str | None


def load_model(
    model: str | Path | Checkpoint,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    quant: str | None = None,
    compile: bool = False,
    disabled: Collection[str] | None = None,
    progress: Progress | None = None,
    **hub: Unpack[HubOptions],
) -> Model:
    """Build the model of a checkpoint, given open or by name, and fill it with its weights.

    ``device`` is auto, cpu, mps, cuda or cuda:N; ``dtype`` is auto, float32 (exact), bfloat16 or
    float16; ``quant`` names a format to quantise linear layers to (see `quant.names`), and of
    several GGUF files one, by a part of its name; ``compile`` makes kernels for this CPU with its
    C++ compiler, for plain matrices and blocks of GGUF (a GPU needs none). ``disabled`` names fast
    paths to leave out, None those that HELEXA_DISABLE names. ``progress`` is told of downloads,
    reading and compiling; ``hub`` are revision, cache_dir, offline and token. Raises InvalidRequest
    for an argument, TypeError for an unknown one, PreflightError, DownloadError, UnsupportedModel
    or CheckpointError for the checkpoint.
    """
    _check_source(model, hub)
    disabled = _left_out(disabled)
    if "large_pages" not in disabled:
        prefer_large_pages(os.environ)
    if isinstance(model, str | Path):
        checkpoint = open_checkpoint(Variant(model, quant), progress=progress, **hub)
        try:
            return load_model(
                checkpoint,
                device=device,
                dtype=dtype,
                quant=quant,
                compile=compile,
                disabled=disabled,
                progress=progress,
            )
        finally:
            checkpoint.close()
    if model.quantisable:
        refuse_quant(model.id, model.config.quantization, quant)
    where = resolve_device(device)
    check_sizes(model)
    stored = decoder_part(Weights(model)).dtype_of(EMBEDDING)
    numerics = resolve_numerics(dtype, where, stored != "F32", disabled)
    if compile and where.type == "cpu" and not NEEDED.intersection(disabled):
        numerics = with_compiler(numerics, at_once=model.config.quantization is None)
    numerics = with_linear(numerics, model, quant, exact=dtype != "auto")
    if dtype == "auto":
        numerics = with_exact_cache(numerics, model.config)
    built = MODELS[model.config.model_type](model.config, numerics)
    weights = Weights(model, dtype=numerics.activations, device=where, progress=progress)
    with readied(numerics.plain.compiler):
        fill(built, weights)
    if isinstance(numerics.linear, BlockFormat):
        numerics.linear.warn()
    built.numerics = with_room(numerics, built.modules())
    method = model.config.quantization
    built.num_parameters = sum(numbers(model.info(n), method) for n in weights.ledger.taken)
    compile_kernels(built, progress)
    return built.to(where).eval()


def _left_out(disabled: Collection[str] | None) -> frozenset[str]:
    """Names of fast paths, those of the environment for None. Raises InvalidRequest."""
    named = switches(os.environ) if disabled is None else frozenset(disabled)
    return EngineConfig(disabled=named).disabled  # which refuses what is no switch


def fill(model: Model, weights: Weights) -> None:
    """Load all of a checkpoint, and give back the memory it passed through.

    Raises CheckpointError for a tensor that is left over, or does not fit.
    """
    model.load(weights)
    model.numerics.plain.workspace.clear()
    weights.finish(UNSEEN)


def with_compiler(numerics: Numerics, *, at_once: bool) -> Numerics:
    """The same, with kernels to be compiled.

    Raises InvalidRequest where that cannot be done: ``at_once``, or when there is a kernel.
    """
    if at_once:
        require_compiler()
    plain = replace(numerics.plain, compiler=Compiler())
    return replace(numerics, plain=plain, linear=plain)


def compile_kernels(model: Model, progress: Progress | None) -> None:
    """Compile what a loaded model has use for. Raises InvalidRequest."""
    compiler = model.numerics.plain.compiler
    if compiler is None:
        return
    model.compile_layers(compiler)
    if not len(compiler):
        return
    require_compiler()
    log.info("compiling %d kernels; the next start finds most of that done", len(compiler))
    for done in compiler.compile():
        if progress is not None:
            progress(KERNELS, done, len(compiler))


def with_linear(
    numerics: Numerics, model: Checkpoint, quant: str | None, *, exact: bool
) -> Numerics:
    """The same, with linear layers in the format that ``quant`` names; of GGUF it names a file.

    Unless they are to be ``exact``, layers of a model in blocks may round as 16-bit formats do.
    What is not quantised of a model that is stays as narrow as it is stored. Raises PreflightError
    of kind `quant_not_found`.
    """
    wanted = quant if model.quantisable else None
    blocks = in_blocks(model, wanted)
    narrow = blocks or model.config.quantization is not None
    plain = linear = replace(numerics.plain, narrow=narrow)
    if not exact and plain.dtype == torch.float32 and blocks:
        linear = replace(plain, dtype=torch.float16)
    return replace(numerics, plain=plain, linear=linear_format(wanted, linear))


def in_blocks(model: Checkpoint, quant: str | None) -> bool:
    """Whether linear layers are stored in blocks, or are to be."""
    if quant is not None and not is_plain(quant):
        return True
    return any(model.info(name).dtype in BLOCK_TYPES for name in model.names())


def with_exact_cache(numerics: Numerics, config: ModelConfig) -> Numerics:
    """The same, with float32 in place of a CPU's float16 cache where that is small anyway.

    Keys and values then do not depend on how a prompt was cut, but for a millionth.
    """
    if numerics.narrow_cache and config.kv_bytes_per_token(4) <= SMALL_KV:
        return replace(numerics, cache=torch.float32)
    return numerics


def with_room(numerics: Numerics, modules: Iterable[nn.Module]) -> Numerics:
    """The same, with a bfloat16 cache where float16 cannot hold what a layer may put there."""
    layers = [module for module in modules if isinstance(module, DecoderLayer)]
    if all(layer.largest_key_or_value <= LARGEST_KEPT for layer in layers):
        return numerics
    return replace(numerics, cache=torch.bfloat16)


def check_sizes(model: Checkpoint) -> None:
    """Refuse a config whose largest numbers the tensors deny, before anything of that size is made.

    Raises CheckpointError as filling the model would.
    """
    config = model.config
    body = decoder_part(Weights(model))
    body.check(EMBEDDING, (config.vocab_size, config.hidden_size))
    body.check(f"layers.{config.num_hidden_layers - 1}.input_layernorm.weight", None)


class Shapes:
    """A checkpoint without its numbers: what a model asks for is there, or it is not."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    def __getattr__(self, name: str) -> Any:
        return getattr(self._checkpoint, name)

    def tensor(self, name: str) -> Tensor:
        """An empty tensor of the right shape."""
        return torch.empty(self._checkpoint.info(name).shape, device="meta")


def check_whole(checkpoint: Checkpoint) -> None:
    """Refuse a plain checkpoint that could not be loaded, reading none of its numbers.

    Raises CheckpointError naming a tensor that is absent, of another shape, or of no use.
    """
    check_sizes(checkpoint)
    nowhere = torch.device("meta")
    numerics = resolve_numerics("float32", nowhere, False)
    weights = Weights(cast("Checkpoint", Shapes(checkpoint)), dtype=torch.float32, device=nowhere)
    MODELS[checkpoint.config.model_type](checkpoint.config, numerics).load(weights)
    weights.finish(UNSEEN)


def _check_source(model: object, given: HubOptions) -> None:
    known = list(HubOptions.__annotations__)
    for name in given:
        if name not in known:
            raise TypeError(f"load_model takes no {name!r}; of the hub: {', '.join(known)}")
    if not (isinstance(model, str | Path) or hasattr(model, "info")) or isinstance(model, type):
        raise InvalidRequest(
            f"model must be a name, a folder or an open checkpoint, not {type(model).__name__}",
            param="model",
            hint='for example helexa.load_model("tiny")',
        )
    if given and not isinstance(model, str | Path):
        raise TypeError(f"{', '.join(given)}: only for a model given by name, this one is open")


def resolve_device(device: str | torch.device) -> torch.device:
    """The device meant: auto is a GPU if torch finds one, else the CPU.

    Raises InvalidRequest for a name that is not a device, or a device that is not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise InvalidRequest(
            f"{device!r} is not a device", param="device", hint="use auto, cpu, mps, cuda or cuda:N"
        ) from error
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (found.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there.get(found.type, False):
        raise InvalidRequest(
            f"device {str(device)!r} is not available here",
            param="device",
            hint='use device="cpu", or a torch build and driver for it',
        )
    return found


def resolve_dtype(
    dtype: str | torch.dtype, device: torch.device, stored_16_bit: bool
) -> torch.dtype:
    """The format of weights and cache.

    ``auto`` on a GPU is bfloat16 (float16 before compute capability 8.0). On a CPU it keeps what
    the checkpoint has: float16, standing for 16 bits, or float32. Raises InvalidRequest for a
    name that is not one of the four.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise InvalidRequest(
            f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r}", param="dtype"
        )
    if name != "auto":
        found: torch.dtype = getattr(torch, name)
        return found
    if device.type == "cuda":
        modern = torch.cuda.get_device_capability(device) >= (8, 0)
        return torch.bfloat16 if modern else torch.float16
    return torch.float16 if stored_16_bit else torch.float32


def resolve_numerics(
    dtype: str | torch.dtype,
    device: torch.device,
    stored_16_bit: bool,
    disabled: Collection[str] = (),
) -> Numerics:
    """Every format of a model (see `Numerics`) from what was asked, the device and the checkpoint.

    On a CPU activations are float32 whatever the weights are.
    """
    kept = resolve_dtype(dtype, device, stored_16_bit)
    on_cpu = device.type == "cpu"
    kernels = "quant_kernels" not in disabled
    narrow = on_cpu and kernels and "bf16_products" not in disabled
    dense = DenseFormat(
        kept,
        device,
        kernels=kernels,
        bfloat16=narrow and multiplies_bfloat16(),
        large_pages="large_pages" not in disabled,
    )
    triton = device.type == "cuda" and has_triton()
    numerics = Numerics(
        device=device,
        activations=torch.float32 if on_cpu else kept,
        cache=kept,
        plain=dense,
        linear=dense,
        fused_prefill="flash_attn" not in disabled,
        fused_decode="flash_decode" not in disabled,
        chunked_delta="gdn_chunked" not in disabled,
        fused_delta="gdn_fused" not in disabled,
        fused_experts="moe_fused" not in disabled,
    )
    return with_triton(numerics, disabled) if triton else numerics


def with_triton(numerics: Numerics, disabled: Collection[str] = ()) -> Numerics:
    """The same, with the kernels that need triton, but for those that are disabled.

    Graphs are recorded only where kernels leave rows of padding alone.
    """
    fused_ops, paged = "fused_ops" not in disabled, numerics.fused_decode
    made = replace(
        numerics,
        fused_ops=fused_ops,
        fused_rows=fused_ops and "fused_rows" not in disabled,
        paged_decode=paged,
    )
    graphs = fused_ops and paged and "cuda_graphs" not in disabled
    return replace(made, cuda_graphs=graphs, look_ahead=graphs and "look_ahead" not in disabled)
