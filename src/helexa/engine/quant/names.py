"""The formats that plain weights can be given when they are loaded, by the names people use."""

from __future__ import annotations

from types import MappingProxyType

from helexa.errors import PreflightError

FORMATS = MappingProxyType(
    {
        "f32": "F32",
        "f16": "F16",
        "bf16": "BF16",
        "q8": "Q8_0",
        "q80": "Q8_0",
        "q81": "Q8_0",
        "q8k": "Q8_0",
        "q6k": "Q6_K",
        "q5k": "Q5_K",
        "q5km": "Q5_K",
        "q51": "Q5_K",
        "q50": "Q5_0",
        "q4k": "Q4_K",
        "q4km": "Q4_K",
        "q41": "Q4_K",
        "q3k": "Q4_K",
        "q2k": "Q4_K",
        "q40": "Q4_0",
    }
)
"""The format that each name stands for, the name without `_` and `-` and in lower case."""
PLAIN = MappingProxyType({"F32": "float32", "F16": "float16", "BF16": "bfloat16"})
"""Formats that quantise nothing, and their names in torch."""
REPLACED = ("q41", "q3k", "q2k")
"""Names of formats that weights are not given; they get a better one."""
SHOWN = ("q8_0", "q6_k", "q5_k", "q5_0", "q4_k", "q4_0", "bf16", "f16", "f32")


def plain_name(quant: str) -> str:
    """A name as FORMATS has it."""
    return quant.lower().replace("_", "").replace("-", "")


def is_plain(quant: str) -> bool:
    """Whether a name is empty, or of a format that quantises nothing."""
    name = plain_name(quant)
    return not name or FORMATS.get(name) in PLAIN


def format_of(quant: str | None) -> str | None:
    """The format that ``quant`` names, such as `Q4_K`; None for none or an empty name.

    Raises PreflightError of kind `quant_not_found`.
    """
    name = plain_name(quant or "")
    if not name:
        return None
    if name not in FORMATS:
        raise PreflightError(
            "quant_not_found",
            f"there is no format {quant!r} to quantise to",
            available=SHOWN,
            hint=f"available: {', '.join(SHOWN)}",
        )
    return FORMATS[name]
