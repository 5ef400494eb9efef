"""Quantised checkpoints, written from the formats' documentation alone, rounding to nearest.

Each writer quantises a matrix [N, K] float32 and gives the tensors that its format stores, and the
matrix that they mean, in float32. Sources: those of the modules that read them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Writer = Callable[[Tensor], tuple[dict[str, Tensor], Tensor]]


def stream(rows: np.ndarray, bits: int) -> Tensor:
    """Numbers [R, n] as one long number per row, first ones lowest, cut into int32 words."""
    each = rows.astype(np.uint8)[:, :, None] >> np.arange(bits, dtype=np.uint8) & 1
    flat = each.reshape(len(rows), -1)
    whole = np.pad(flat, ((0, 0), (0, -flat.shape[1] % 32)))
    return torch.from_numpy(np.packbits(whole, 1, "little").view(np.int32))


@dataclass(frozen=True)
class Quantised:
    """Integers [N, K], zero points and scales [N, G], and the group of each column."""

    q: np.ndarray
    zero: np.ndarray
    scale: np.ndarray
    group_of: np.ndarray

    def matrix(self) -> Tensor:
        """What it means: (q − zero) · scale."""
        centred = (self.q - self.zero[:, self.group_of]).astype(np.float32)
        return torch.from_numpy(centred * self.scale[:, self.group_of].astype(np.float32))


def quantise(
    matrix: Tensor,
    bits: int,
    group: int,
    *,
    sym: bool = False,
    group_of: np.ndarray | None = None,
    dtype: Any = np.float16,
    least_zero: int = 0,
) -> Quantised:
    """Round to 0 … 2^bits − 1 in groups; ``group`` −1 is one for all columns."""
    values = matrix.numpy()
    columns = values.shape[1]
    if group_of is None:
        group_of = np.arange(columns) // (columns if group == -1 else group)
    top, counts = 2**bits - 1, int(group_of.max()) + 1
    low = np.stack([values[:, group_of == g].min(1) for g in range(counts)], 1).clip(None, 0)
    high = np.stack([values[:, group_of == g].max(1) for g in range(counts)], 1).clip(0, None)
    if sym:
        scale = (2 * np.maximum(-low, high) / top).clip(1e-4).astype(dtype)
        zero = np.full(scale.shape, 2 ** (bits - 1))
    else:
        scale = ((high - low) / top).clip(1e-4).astype(dtype)
        zero = np.rint(-low / scale).clip(least_zero, top).astype(int)
    steps = np.rint(values / scale[:, group_of].astype(np.float32)).astype(int)
    return Quantised((steps + zero[:, group_of]).clip(0, top), zero, scale, group_of)


def gptq(
    matrix: Tensor,
    bits: int = 4,
    group: int = 32,
    *,
    sym: bool = False,
    version: int = 1,
    group_of: np.ndarray | None = None,
) -> tuple[dict[str, Tensor], Tensor]:
    """qweight packs inputs, qzeros outputs; version 1 stores zero points less one."""
    least = 1 if version == 1 else 0
    made = quantise(matrix, bits, group, sym=sym, group_of=group_of, least_zero=least)
    tensors = {
        "qweight": stream(made.q, bits).T.contiguous(),
        "qzeros": stream(made.zero.T - (1 if version == 1 else 0), bits),
        "scales": torch.from_numpy(made.scale.T.copy()),
        "g_idx": torch.from_numpy(made.group_of.astype(np.int32)),
    }
    return tensors, made.matrix()


def awq(matrix: Tensor, group: int = 32) -> tuple[dict[str, Tensor], Tensor]:
    """Eight outputs to a word, even ones first."""

    def words(numbers: np.ndarray) -> Tensor:  # [R, N] → [R, N/8]
        eights = numbers.reshape(len(numbers), -1, 8)
        packed = np.zeros(eights.shape[:2], np.int64)
        for place, output in enumerate((0, 2, 4, 6, 1, 3, 5, 7)):
            packed += eights[:, :, output].astype(np.int64) << 4 * place
        return torch.from_numpy(packed.astype(np.uint32).view(np.int32).copy())

    made = quantise(matrix, 4, group)
    tensors = {
        "qweight": words(made.q.T),
        "qzeros": words(made.zero.T),
        "scales": torch.from_numpy(made.scale.T.copy()),
    }
    return tensors, made.matrix()


def packed(
    matrix: Tensor,
    bits: int = 4,
    group: int = 32,
    *,
    sym: bool = True,
    group_of: np.ndarray | None = None,
    plain_zeros: bool = False,
) -> tuple[dict[str, Tensor], Tensor]:
    """pack-quantized of compressed-tensors: rows are streams, zero points packed down columns."""
    made = quantise(matrix, bits, group, sym=sym, group_of=group_of, dtype=np.float32)
    tensors = {
        "weight_packed": stream(made.q, bits),
        "weight_scale": torch.from_numpy(made.scale),
        "weight_shape": torch.tensor(made.q.shape),
    }
    if not sym:
        zeros = torch.from_numpy(made.zero - 2 ** (bits - 1)).to(torch.int8)
        tensors["weight_zero_point"] = (
            zeros if plain_zeros else stream(made.zero.T, bits).T.contiguous()
        )
    if group_of is not None:
        tensors["weight_g_idx"] = torch.from_numpy(group_of.astype(np.int32))
    return tensors, made.matrix()


def int8(matrix: Tensor, group: int = -1, *, sym: bool = True) -> tuple[dict[str, Tensor], Tensor]:
    """int-quantized and naive-quantized: numbers from −128 to 127."""
    made = quantise(matrix, 8, group, sym=sym, dtype=np.float32)
    tensors = {
        "weight": torch.from_numpy(made.q - 128).to(torch.int8),
        "weight_scale": torch.from_numpy(made.scale),
    }
    if not sym:
        tensors["weight_zero_point"] = torch.from_numpy(made.zero - 128).to(torch.int8)
    return tensors, made.matrix()


def float8(
    matrix: Tensor,
    block: tuple[int, int] | None,
    name: str = "weight_scale_inv",
    dtype: torch.dtype = torch.float32,
) -> tuple[dict[str, Tensor], Tensor]:
    """float8 e4m3 with one scale for each block; None: one for the matrix."""
    rows, columns = matrix.shape
    tall, wide = block or (rows, columns)
    scale = torch.empty(math.ceil(rows / tall), math.ceil(columns / wide))
    stored = torch.empty(rows, columns, dtype=torch.float8_e4m3fn)
    meant = torch.empty(rows, columns)
    for r in range(scale.shape[0]):
        for c in range(scale.shape[1]):
            part = np.s_[r * tall : (r + 1) * tall, c * wide : (c + 1) * wide]
            scale[r, c] = (matrix[part].abs().max() / 448).clamp(min=1e-6).to(dtype)
            stored[part] = (matrix[part] / scale[r, c]).clamp(-448, 448).to(torch.float8_e4m3fn)
            meant[part] = stored[part].float() * scale[r, c]
    return {"weight": stored, name: scale.to(dtype) if block else scale.to(dtype)[0]}, meant


def compressed(format: str, **weights: Any) -> dict[str, Any]:
    """A config of one group for all linears but the output layer."""
    group = {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "int", **weights}}
    return {
        "quant_method": "compressed-tensors",
        "format": format,
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }


@dataclass(frozen=True)
class Case:
    """A format: its `quantization_config`, its writer, and what of a model stays plain."""

    config: Mapping[str, Any]
    write: Writer
    plain: tuple[str, ...] = field(default=("lm_head",))


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": False, "desc_act": False}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}
FP8 = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic"}
FLOAT = {"type": "float", "num_bits": 8}


LINEARS = ("_proj", "lm_head", "in_proj_qkvz", "in_proj_qkv", "in_proj_z")
"""How the names of modules end that are quantised."""


def convert(folder: Path, to: Path, case: Case) -> dict[str, Tensor]:
    """Write a plain checkpoint in another format, file by file; → the tensors that it then means.

    What is quantised is so from float32; the rest stays as it is.
    """
    meant: dict[str, Tensor] = {}
    places: dict[str, str] = {}
    to.mkdir(exist_ok=True)
    for file in sorted(folder.glob("*.safetensors")):
        stored: dict[str, Tensor] = {}
        for name, tensor in load_file(file).items():
            module = name.removesuffix(".weight")
            if module.endswith(LINEARS) and module not in case.plain:
                parts, meant[name] = case.write(tensor.float())
                stored |= {f"{module}.{part}": value for part, value in parts.items()}
            else:
                stored[name] = meant[name] = tensor
        save_file(stored, to / file.name)
        places |= dict.fromkeys(stored, file.name)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = dict(case.config)
    (to / "config.json").write_text(json.dumps(config))
    if len(set(places.values())) > 1:
        index = json.dumps({"weight_map": places})
        (to / "model.safetensors.index.json").write_text(index)
    return meant
