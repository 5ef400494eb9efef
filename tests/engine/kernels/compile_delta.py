"""Compiles the delta rule's kernels for GPUs that need not be there; a script, not interpreted.

    python compile_delta.py 75 80 90

prints, as JSON, by capability and kernel how much shared memory in bytes each asks for. The two
that take long, those of chunks, are compiled for the first capability only.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from helexa.engine.kernels.causal_conv_triton import causal_conv_kernel
from helexa.engine.kernels.delta_chunks_triton import (
    WARPS,
    carry_kernel,
    solve_kernel,
    unit_kernel,
)
from helexa.engine.kernels.delta_rule_triton import delta_step_kernel
from helexa.engine.kernels.gated_norm_triton import gated_norm_kernel

ALIGNED = [["tt.divisibility", 16]]
WIDE, INDEX = "*fp32", "*i64"
DIMS = 2, 4, 16, 24, 16


def kernels(dtype: str) -> list[tuple[Any, dict[str, Any]]]:
    """Each kernel and its arguments: strings are types, other things are compiled in."""
    spans, solved = (INDEX,) * 3, (WIDE,) * 4
    conv = {"x": dtype, "weight": WIDE, "state": dtype, "out": dtype}
    shape = {"shape": (*DIMS[:4], True)}
    return [
        (causal_conv_kernel, {**conv, "spans": (INDEX, INDEX, None), "shape": (4, 4, 200, 1, 300)}),
        (causal_conv_kernel, {**conv, "spans": spans, "shape": (4, 4, 200, 16, 300)}),
        (
            gated_norm_kernel,
            {**dict.fromkeys(("x", "z", "out"), dtype), "gain": WIDE, "floor": WIDE}
            | {"shape": (4, 24, 32, 96)},
        ),
        (
            delta_step_kernel,
            {"qkv": dtype, "gates": dtype, "constants": (WIDE, WIDE), "places": (INDEX, INDEX)}
            | {"state": WIDE, "out": dtype, "shape": (*DIMS, False, 0.25)},
        ),
        (
            unit_kernel,
            {"qkv": dtype, "unit": WIDE, "spans": spans, "shape": (160, 2, 16, 0.25)},
        ),
        (
            solve_kernel,
            {"unit": WIDE, "qkv": dtype, "gates": (WIDE, WIDE), "spans": spans, "solved": solved}
            | shape,
        ),
        (
            carry_kernel,
            {"unit": WIDE, "g": WIDE, "spans": spans, "solved": solved, "state": WIDE, "out": dtype}
            | shape,
        ),
    ]


def shared_memory(function: Any, given: dict[str, Any], target: GPUTarget) -> int:
    """Compile a kernel. → bytes of shared memory."""
    signature: dict[str, Any] = {}
    constants: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], Any] = {}
    for at, name in enumerate(function.arg_names):
        value = given[name]
        if isinstance(value, str):
            signature[name], attributes[at,] = value, ALIGNED
        elif name == "shape":
            signature[name], constants[at,] = "constexpr", value
        else:
            signature[name] = tuple(type or "constexpr" for type in value)
            for i, type in enumerate(value):
                (attributes if type else constants)[at, i] = ALIGNED if type else None
    source = ASTSource(function, signature, constexprs=constants, attrs=attributes)
    options = {"num_warps": WARPS, "num_stages": 1}
    return int(triton.compile(source, target=target, options=options).metadata.shared)


def main(*capabilities: str) -> None:
    asked = {
        f"{capability} {function.__name__}": shared_memory(function, given, target)
        for capability in capabilities
        for target in [GPUTarget("cuda", int(capability), 32)]
        for function, given in kernels("*fp16" if capability == "75" else "*bf16")
        if capability == capabilities[0] or function not in (solve_kernel, carry_kernel)
    }
    print(json.dumps(asked))  # noqa: T201 - what the caller reads


if __name__ == "__main__":
    main(*sys.argv[1:])
