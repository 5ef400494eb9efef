"""Compiles the kernels of a decode step for a GPU that need not be there.

    python compile_decode.py 80 bf16

Run as a script, without the interpreter. Prints, as JSON, the shared memory in bytes that each
kernel asks for.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from helexa.engine.kernels import (
    angles_triton,
    decoding_triton,
    norm_triton,
    one_row_triton,
    placing_triton,
    silu_mul_triton,
    state_step_triton,
)
from helexa.engine.kernels.launching import FUSING

TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
ALIGNED = [["tt.divisibility", 16]]
ATTENTION = [(16, 8, 128), (16, 2, 256)]
"""Query heads, key heads, numbers of each."""


def kernels(dtype: str) -> list[tuple[str, Any, dict[str, Any], int]]:
    """Each kernel: what to call it, its function, its arguments, and its warps.

    Strings are types of arguments, tuples of them too; other things are compiled in.
    """
    x = f"*{dtype}"
    found = [
        (
            f"norm {size}{' adds' * adds}",
            norm_triton.add_norm_kernel,
            {
                "x": x,
                "change": x if adds else None,
                "out": x,
                "gain": "*fp32",
                "floor": "*fp32",
                "shape": (size, triton.next_power_of_2(size)),
            },
            norm_triton.warps(triton.next_power_of_2(size)),
        )
        for size in (1024, 5120)
        for adds in (True, False)
    ]
    given = {"positions": "*i64", "frequencies": "*fp32", "out": "*fp32", "factor": "fp32"}
    found.append(("angles", angles_triton.angles_kernel, {**given, "shape": (64, 64)}, 1))
    found.append(("silu", silu_mul_triton.silu_mul_kernel, {"x": x, "out": x, "size": 3072}, 4))
    given = {"x": (x, "i32"), "states": x, "slots": "*i64", "weight": "*fp32", "out": x}
    given |= {"shape": (4, 8192)}
    found.append(("convolution", state_step_triton.conv_kernel, given, 4))
    heads = state_step_triton.Heads(16, 32, 128, 128, True, 128, 32)
    given = {"qkv": x, "gates": ("*fp32", "*fp32"), "states": "*fp32", "slots": "*i64"}
    given |= {"out": "*fp32", "heads": heads}
    found.append(("delta rule", state_step_triton.delta_kernel, given, 4))
    for gated in (False, True):
        tiles = one_row_triton.Tiles(6144, 4096, 8, 512, 4096, gated)
        given = {"x": x, "gain": "*fp32", "floor": "*fp32", "weight": x, "out": x, "tiles": tiles}
        found.append((f"normed product{' gated' * gated}", one_row_triton.normed_kernel, given, 4))
    given = {"x": x, "weight": x, "stream": x}
    given |= {"tiles": one_row_triton.Tiles(1024, 3072, 2, 2048, 4096, False)}
    found.append(("added product", one_row_triton.added_kernel, given, 4))
    for sizes in ATTENTION:
        found += attention(x, sizes, TYPES[dtype])
    return found


def attention(
    x: str, sizes: tuple[int, int, int], dtype: torch.dtype
) -> list[tuple[str, Any, dict[str, Any], int]]:
    """The kernels of one layer of these sizes."""
    queries, groups, dim = sizes
    block = triton.next_power_of_2(dim)
    found = []
    for stride, norm in ((1, ("*fp32", "*fp32")), (2, (None, None))):
        heads = placing_triton.Heads(queries, groups, stride, dim, dim // stride, block)
        given = {"y": x, "out": x, "memory": (x, "i64", "i64"), "slots": "*i64"}
        given |= {"angles": ("*fp32", "*fp32"), "norm": norm, "heads": heads}
        found.append((f"place {sizes} {stride}", placing_triton.place_kernel, given, 1))
    q, kv = torch.empty((1, queries, dim), dtype=dtype), torch.empty((2, groups, 0, dim))
    results = (x, "*fp32", "*fp32")
    for parts in (1, 8):
        shape = decoding_triton.shape_of(q, kv, 16, parts)
        gates = (x, "i32", "i32") if parts == 8 else (None, "i32", "i32")
        given = {"queries": (x, "i32", "i32"), "memory": (x, "i64", "i64")}
        given |= {"table": ("*i32", "i32", "*i32"), "gates": gates}
        given |= {"results": results, "shape": shape}
        warps = decoding_triton.warps(shape)
        found.append((f"split {sizes} {parts}", decoding_triton.split_kernel, given, warps))
        if parts > 1:
            given = {"gates": gates, "results": results, "shape": shape}
            found.append((f"combine {sizes} {parts}", decoding_triton.combine_kernel, given, 4))
    return found


def compile_one(function: Any, given: dict[str, Any], warps: int, target: GPUTarget) -> int:
    """Compile a kernel. → bytes of shared memory."""
    signature: dict[str, Any] = {}
    constants: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], Any] = {}
    for place, (name, value) in enumerate(given.items()):
        if isinstance(value, tuple) and any(isinstance(item, str) for item in value):
            signature[name] = tuple("constexpr" if item is None else item for item in value)
            for i, item in enumerate(value):
                if item is None:
                    constants[place, i] = None
                elif item.startswith("*"):
                    attributes[place, i] = ALIGNED
        elif isinstance(value, str):
            signature[name] = value
            attributes[(place,)] = ALIGNED if value.startswith("*") else []
        else:
            signature[name] = "constexpr"
            constants[(place,)] = value
    source = ASTSource(function, signature, constexprs=constants, attrs=attributes)
    options = {"num_warps": warps, "num_stages": 2, **FUSING}
    done = triton.compile(source, target=target, options=options)
    return int(done.metadata.shared)


def main(capability: str, dtype: str) -> None:
    target = GPUTarget("cuda", int(capability), 32)
    asked = {
        name: compile_one(function, given, warps, target)
        for name, function, given, warps in kernels(dtype)
    }
    print(json.dumps(asked))  # noqa: T201 - what the caller reads


if __name__ == "__main__":
    main(*sys.argv[1:])
