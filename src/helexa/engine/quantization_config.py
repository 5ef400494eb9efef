"""What a config.json says of how its weights are quantised (`quantization_config`).

Sources: Hugging Face's documentation of `FineGrainedFP8Config`, `AwqConfig`, `GPTQConfig` and
`CompressedTensorsConfig`, https://huggingface.co/docs/transformers/main/quantization/overview
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from helexa.engine.checkpoint.gguf_types import READABLE
from helexa.errors import UnsupportedModel

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from helexa.engine.fields import Fields

PLAIN = "load the unquantised checkpoint of this model"
AS_GPTQ = "export it in GPTQ's or AWQ's format, or load the unquantised checkpoint of this model"
HINTS = {
    "auto-round": AS_GPTQ,
    "autoround": AS_GPTQ,
    "intel/auto-round": AS_GPTQ,
    "modelopt": "load its FP8 or compressed-tensors checkpoint, or the unquantised one",
}
PACK, INT, FLOAT, NAIVE = "pack-quantized", "int-quantized", "float-quantized", "naive-quantized"
COMPRESSED = (FLOAT, INT, NAIVE, PACK)
UNPACKED = "dense"
"""A group of compressed-tensors whose weights are stored as plain ones."""
DENSE_FORMATS = (None, "", UNPACKED)
PACKED_BITS = (2, 3, 4, 8)
BLOCKS = "helexa_blocks"
"""Matrices in GGUF's block formats, as `helexa quantize` writes them."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """How compressed-tensors stores the weights of some modules.

    ``targets`` are names of modules, `re:` patterns of names, or classes; ``kind`` is int or float;
    ``group_size`` is how many inputs share a scale, None where a whole row, block or matrix does;
    ``block`` is [outputs, inputs].
    """

    targets: tuple[str, ...]
    format: str
    bits: int
    kind: str
    symmetric: bool
    group_size: int | None
    block: tuple[int, int] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationConfig:
    """A checkpoint's method and its constants.

    ``group_size`` inputs of a row share a scale, −1: all. ``desc_act``: columns were quantised in
    an order of their own. ``checkpoint_format`` is the layout's version; ``block`` [outputs,
    inputs] is FP8's. ``skipped`` modules are plain; ``schemes`` are those of compressed-tensors.
    ``block_type`` is that of BLOCKS (`Q4_K`), ``exceptions`` are names of tensors, or patterns in
    which `*` stands for anything, with the types of those.
    """

    method: str
    bits: int
    group_size: int = -1
    sym: bool = True
    desc_act: bool = False
    checkpoint_format: str = ""
    block: tuple[int, int] | None = None
    skipped: tuple[str, ...] = ()
    schemes: tuple[Scheme, ...] = ()
    block_type: str = ""
    exceptions: tuple[tuple[str, str], ...] = ()

    @property
    def described(self) -> str:
        """In a few words: `gptq, 4 bits, groups of 128`."""
        parts = [self.method, f"{self.bits} bits"]
        if self.block is not None:
            parts.append(f"blocks of {self.block[0]} × {self.block[1]}")
        if self.group_size > 0:
            parts.append(f"groups of {self.group_size}")
        formats = dict.fromkeys(scheme.format for scheme in self.schemes)
        types = dict.fromkeys((self.block_type, *(type for _, type in self.exceptions)))
        return ", ".join([*parts, *formats, *filter(None, types)])

    def type_of(self, tensor: str) -> str:
        """The block type of a tensor that is stored in blocks."""
        found = (type for name, type in self.exceptions if fnmatchcase(tensor, name))
        return next(found, self.block_type)

    def group(self, inputs: int) -> int:
        """How many of a row's inputs share a scale."""
        return inputs if self.group_size == -1 else self.group_size

    def scheme(self, module: str) -> Scheme | None:
        """What compressed-tensors does with a module: None for nothing.

        Of several schemes one that names the module comes first, then one with a pattern.
        """
        if any(names(pattern, module) for pattern in self.skipped):
            return None
        found = [
            (rank, index)
            for index, scheme in enumerate(self.schemes)
            for target in scheme.targets
            if (rank := targeted(target, module)) is not None
        ]
        return self.schemes[min(found)[1]] if found else None


def names(pattern: str, module: str) -> bool:
    """Whether a name, or a pattern after `re:`, is that of a module; patterns match beginnings."""
    if pattern.startswith("re:"):
        return re.match(pattern[3:], module) is not None
    return pattern == module


def targeted(target: str, module: str) -> int | None:
    """How closely a target means a module: 0 by name, 1 by pattern, 2 by class, None not at all."""
    if target == "Linear":
        return 2
    return int(target.startswith("re:")) if names(target, module) else None


def read_quantization(config: Fields) -> QuantizationConfig | None:
    """How the weights are quantised; None if they are not.

    Raises UnsupportedModel naming the field that asks for what is not supported, CheckpointError
    for one that is wrong.
    """
    if not config.get("quantization_config"):
        return None
    section = config.section("quantization_config")
    method = section.text("quant_method", "").lower().replace("_", "-")
    if method not in READERS:
        raise UnsupportedModel(
            f"{section.place}: unsupported `quant_method` {section.get('quant_method')!r}",
            hint=f"supported: {', '.join(sorted(READERS))}; {HINTS.get(method, PLAIN)}",
        )
    return READERS[method](section)


def read_fp8(section: Fields) -> QuantizationConfig:
    """FP8 with a scale per block, or without blocks one for the matrix."""
    demand(section, "fmt", "e4m3", ("e4m3", "float8_e4m3fn"))
    demand(section, "expert_dtype", "fp8", ("fp8",))
    sizes = pair(section, "weight_block_size")
    skipped = section.texts("modules_to_not_convert") or section.texts("ignored_layers")
    return QuantizationConfig(method="fp8", bits=8, block=sizes, skipped=skipped)


def read_awq(section: Fields) -> QuantizationConfig:
    """AWQ: 4 bits, in the layout that its writers call gemm."""
    name = "version" if "version" in section else "format"
    demand(section, name, "gemm", ("gemm",))
    bits = section.integer("bits", section.integer("w_bit", 4))
    refuse_bits(section, "bits", bits, (4,))
    if not section.flag("zero_point", True):
        raise unsupported(section, "zero_point", "true")
    return QuantizationConfig(
        method="awq",
        bits=bits,
        group_size=group_size(section, "group_size" if "group_size" in section else "q_group_size"),
        sym=False,
        checkpoint_format="gemm",
        skipped=section.texts("modules_to_not_convert"),
    )


def read_gptq(section: Fields) -> QuantizationConfig:
    """GPTQ: the classic layout, in which zero points are stored less one, or its second version."""
    name = "checkpoint_format" if "checkpoint_format" in section else "format"
    found = demand(section, name, "gptq", ("gptq", "gptq_v2"))
    if section.flag("is_marlin_format", False):
        raise unsupported(section, "is_marlin_format", "the layouts gptq and gptq_v2")
    demand(section, "pack_dtype", "int32", ("int32",))
    bits = section.integer("bits")
    refuse_bits(section, "bits", bits, PACKED_BITS)
    dynamic = section.section("dynamic").values
    if any(not pattern.startswith("-:") for pattern in dynamic):
        raise unsupported(section, "dynamic", "the same bits and groups everywhere, or `-:` rules")
    return QuantizationConfig(
        method="gptq",
        bits=bits,
        group_size=group_size(section, "group_size"),
        sym=section.flag("sym", True),
        desc_act=section.flag("desc_act", False),
        checkpoint_format=found,
        skipped=(*section.texts("modules_to_not_convert"), *(p[2:] for p in dynamic)),
    )


def read_compressed(section: Fields) -> QuantizationConfig:
    """compressed-tensors: schemes, each for some of the modules."""
    for field in ("kv_cache_scheme", "transform_config"):
        if section.get(field):
            raise unsupported(section, field, "none")
    if section.section("sparsity_config").get("format") not in DENSE_FORMATS:
        raise unsupported(section, "sparsity_config", "none")
    groups = section.section("config_groups")
    found = [read_scheme(section, groups.section(name)) for name in groups.values]
    schemes = tuple(scheme for scheme in found if scheme is not None)
    if not schemes:
        raise unsupported(section, "config_groups", "groups with weights")
    return QuantizationConfig(
        method="compressed-tensors",
        bits=max(scheme.bits for scheme in schemes),
        sym=all(scheme.symmetric for scheme in schemes),
        checkpoint_format=section.text("format", ""),
        skipped=patterns(section, "ignore"),
        schemes=schemes,
    )


def read_scheme(section: Fields, group: Fields) -> Scheme | None:
    """One of the `config_groups`; None if it leaves the weights as they are."""
    owner = group if "format" in group else section
    format = owner.text("format", UNPACKED)
    if not group.get("weights") or format == UNPACKED:
        return None
    if format not in COMPRESSED:
        raise unsupported(owner, "format", ", ".join(COMPRESSED))
    weights = group.section("weights")
    kind, bits = weights.text("type", "int"), weights.integer("num_bits", 8)
    if kind not in ("int", "float"):
        raise unsupported(weights, "type", "int, float")
    allowed = (8,) if kind == "float" else tuple(range(2, 9))
    refuse_bits(weights, "num_bits", bits, allowed)
    if format == PACK and kind != "int":
        raise unsupported(weights, "type", f"int in {PACK}")
    strategy = weights.text("strategy", "group" if weights.get("group_size") else "tensor")
    if strategy not in ("tensor", "channel", "group", "block"):
        raise unsupported(weights, "strategy", "tensor, channel, group, block")
    return Scheme(
        targets=patterns(group, "targets"),
        format=format,
        bits=bits,
        kind=kind,
        symmetric=weights.flag("symmetric", True),
        group_size=weights.integer("group_size") if strategy == "group" else None,
        block=pair(weights, "block_structure") if strategy == "block" else None,
    )


def read_blocks(section: Fields) -> QuantizationConfig:
    """Blocks: the type of most matrices, and of those that have another one."""
    known = [type.name for type in READABLE.values() if not type.plain]
    exceptions = section.section("exceptions")
    for place, names in ((section, ("block_type",)), (exceptions, tuple(exceptions.values))):
        for name in names:
            if place.text(name) not in known:
                raise place.wrong(name, f"one of {', '.join(known)}")
    type = READABLE[section.text("block_type")]
    return QuantizationConfig(
        method=BLOCKS,
        bits=8 * type.nbytes // type.elements,
        block_type=type.name,
        exceptions=tuple(exceptions.values.items()),
    )


def refuse_quant(model: str, found: QuantizationConfig | None, quant: str | None) -> None:
    """Raise UnsupportedModel where weights that are quantised already are to be quantised."""
    if found is not None and quant:
        raise UnsupportedModel(
            f"{model!r} is quantised already ({found.described}), which cannot become {quant!r}",
            hint="leave quant out, or choose the model's plain weights",
        )


READERS: Mapping[str, Callable[[Fields], QuantizationConfig]] = {
    "awq": read_awq,
    "compressed-tensors": read_compressed,
    "fp8": read_fp8,
    "gptq": read_gptq,
    "helexa-blocks": read_blocks,
}


def demand(section: Fields, name: str, default: str, allowed: tuple[str, ...]) -> str:
    """A text field that must be one of ``allowed``, whatever its case."""
    value = section.text(name, default).lower()
    if value not in allowed:
        raise unsupported(section, name, ", ".join(allowed))
    return value


def refuse_bits(section: Fields, name: str, bits: int, allowed: tuple[int, ...]) -> None:
    if bits not in allowed:
        raise unsupported(section, name, ", ".join(map(str, allowed)))


def group_size(section: Fields, name: str) -> int:
    """Inputs per scale, −1 for all of a row."""
    size = section.integer(name, 128, at_least=-1)
    if not size:
        raise section.wrong(name, "−1 or an integer of at least 1")
    return size


def patterns(section: Fields, name: str) -> tuple[str, ...]:
    """Names of modules and `re:` patterns, each of which can be used."""
    found = section.texts(name)
    for pattern in found:
        try:
            re.compile(pattern.removeprefix("re:") if pattern.startswith("re:") else "")
        except re.error:
            raise section.wrong(name, "names or patterns") from None
    return found


def pair(section: Fields, name: str) -> tuple[int, int] | None:
    """The sizes [outputs, inputs] of blocks; None if absent."""
    value = section.get(name)
    if value is None:
        return None
    if not (
        isinstance(value, list)
        and len(value) == 2
        and all(type(size) is int and size > 0 for size in value)
    ):
        raise section.wrong(name, "two sizes, [outputs, inputs]")
    return value[0], value[1]


def unsupported(section: Fields, name: str, supported: str) -> UnsupportedModel:
    """The error for a field that asks for more than is implemented."""
    shown = repr(section.get(name))
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    return UnsupportedModel(
        f"{section.place}: unsupported `{name}` {shown}", hint=f"supported: {supported}; {PLAIN}"
    )
