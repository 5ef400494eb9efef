"""Compiles kernels for a GPU that need not be there; run as a script, without the interpreter.

    python compile_kernels.py 80 bf16 Q4_K,Q6_K

prints, as JSON, the shared memory in bytes that each kernel of these formats asks for.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from helexa.engine.kernels import products_triton, stored_experts_triton
from helexa.engine.kernels.stored_matrix import StoredMatrix

NAMES = {torch.uint8: "u8", torch.float32: "fp32", torch.float16: "fp16", torch.int64: "i64"}
ALIGNED = [["tt.divisibility", 16]]
SHAPE = (1000, 1536)
EXTRA = {"fp8": (128, 128), "groups": (2, 64, 4, 12, 1, 1, 3, 128)}
TENSORS = {
    "fp8": (torch.uint8, torch.float32),
    "groups": (torch.uint8, torch.float16, torch.uint8, torch.int64, torch.int64),
    "plain": (torch.float16,),
}


def matrix(name: str) -> StoredMatrix:
    """A matrix with everything that its decoder can be told, empty but for that."""
    tensors = tuple(torch.empty(0, dtype=t) for t in TENSORS.get(name, (torch.uint8,)))
    return StoredMatrix(name, tensors, SHAPE, EXTRA.get(name, ()))


def kernels(name: str, dtype: str, units: bool) -> list[tuple[str, Any, dict[str, Any]]]:
    """Each kernel of a format: what to call it, its function, and its arguments.

    Strings are types of arguments, other things are compiled in.
    """
    stored, decode = matrix(name), products_triton.DECODERS[name].function
    held = tuple(f"*{NAMES[tensor.dtype]}" for tensor in stored.tensors)
    types = tuple(stored_experts_triton.TYPES[tensor.dtype] for tensor in stored.tensors)
    found = []
    for rows in (1, 16, 64) if units else (1, 16):
        layout = products_triton.layout_of(stored, rows, units=units)
        fixed = {"decode": decode, "layout": layout}
        both = {"x": f"*{dtype}", "out": f"*{dtype}", "matrix": held}
        given = {**both, "tokens": "i32", "share": "i32", **fixed}
        found.append((f"product {rows}", products_triton.product_kernel, given))
        if rows == 16:
            given = {"out": f"*{dtype}", "matrix": held, "first": "i32", "decode": decode}
            given["layout"] = products_triton.expanding(stored)
            found.append(("expand", products_triton.expand_kernel, given))
        plan = ("*i64",) if rows == 1 else ("*i32", "*i32")
        route = stored_experts_triton.Route(8, False, 2000, 1000, types, 16)
        given = {"x": f"*{dtype}", "out": f"*{dtype}", "table": "*i64", "plan": plan}
        given |= {**fixed, "route": route}
        found.append((f"experts {rows}", stored_experts_triton.experts_kernel, given))
    return found


def compile_one(function: Any, given: dict[str, Any], target: GPUTarget, rows: int) -> int:
    """Compile a kernel. → bytes of shared memory."""
    signature, constants, attributes = {}, {}, {}
    for place, (name, value) in enumerate(given.items()):
        if isinstance(value, str):
            signature[name] = value
            attributes[(place,)] = ALIGNED if value.startswith("*") else []
        elif isinstance(value, tuple) and all(isinstance(item, str) for item in value):
            signature[name] = value
            attributes |= {(place, i): ALIGNED for i in range(len(value))}
        else:
            signature[name] = "constexpr"
            constants[(place,)] = value
    source = ASTSource(function, signature, constexprs=constants, attrs=attributes)
    done = triton.compile(source, target=target, options=products_triton.options(rows))
    return int(done.metadata.shared)


def main(capability: str, dtype: str, names: str) -> None:
    target = GPUTarget("cuda", int(capability), 32)
    units = dtype != "fp32" and int(capability) >= 80
    asked = {
        f"{name} {kernel}": compile_one(function, given, target, given["layout"].rows)
        for name in names.split(",")
        for kernel, function, given in kernels(name, dtype, units)
    }
    print(json.dumps(asked))  # noqa: T201 - what the caller reads


if __name__ == "__main__":
    main(*sys.argv[1:])
