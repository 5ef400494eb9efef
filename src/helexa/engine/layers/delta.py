"""Linear attention by the gated delta rule: a state of fixed size in place of keys and values."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from helexa.engine.batch import several_tokens
from helexa.engine.kernels.causal_conv import causal_conv
from helexa.engine.kernels.delta_rule import (
    chunked_delta_rule,
    delta_step,
    delta_step_in_place,
    recurrent_delta_rule,
)
from helexa.engine.kernels.stored_matrix import device_of, has_triton
from helexa.engine.layers.linear import Linear
from helexa.engine.layers.norm import GatedRMSNorm

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from helexa.engine.batch import Batch
    from helexa.engine.cache.state import LayerState
    from helexa.engine.checkpoint.weights import Weights
    from helexa.engine.config import ModelConfig
    from helexa.engine.numerics import Numerics

L2_EPS = 1e-6


class Projected(NamedTuple):
    """What the rows of a step become: qkv [T, C] before the convolution, z [T, Hv, Dv], and gates
    [T, 2, Hv], b above a, from which g (log of what the state keeps) and beta are made.
    """

    qkv: Tensor
    z: Tensor
    gates: Tensor


class GatedDelta(nn.Module):
    """The gated delta rule behind a short convolution, Hk key heads and Hv value heads.

    Eats `in_proj_qkv`, `in_proj_z`, `in_proj_b`, `in_proj_a`, or `in_proj_qkvz` and `in_proj_ba`,
    whose rows are grouped by key head; `conv1d`, `dt_bias`, `A_log` (or `A`, which is −e^A_log),
    `norm`, `out_proj`. Reference: transformers' `Qwen3NextGatedDeltaNet`, `Qwen3_5GatedDeltaNet`.
    """

    conv: Tensor
    dt_bias: Tensor
    rate: Tensor

    def __init__(self, config: ModelConfig, numerics: Numerics) -> None:
        super().__init__()
        assert config.delta is not None
        self.delta = config.delta
        self.hidden = config.hidden_size
        self.numerics = numerics
        self.norm = GatedRMSNorm(self.delta.value_dim, config.rms_norm_eps)
        self.out = Linear(self.delta.value_size, self.hidden, bias=False, numerics=numerics)
        self.grouped = self.grouped_gates = False
        self.on_device = has_kernels(numerics)
        for name in ("conv", "dt_bias", "rate"):
            self.register_buffer(name, torch.empty(0))

    def load(self, weights: Weights) -> None:
        """Fill the projections, in whichever of the two layouts they are, and the rest."""
        shape = self.delta
        self.grouped = weights.has_below("in_proj_qkvz")
        self.grouped_gates = weights.has_below("in_proj_ba")
        whole = shape.channels + shape.value_size
        self.inputs = self.linear(
            weights,
            {"in_proj_qkvz": whole}
            if self.grouped
            else {"in_proj_qkv": shape.channels, "in_proj_z": shape.value_size},
            self.numerics,
        )
        heads = shape.value_heads
        self.gates = self.linear(
            weights,
            {"in_proj_ba": 2 * heads}
            if self.grouped_gates
            else {"in_proj_b": heads, "in_proj_a": heads},
            replace(self.numerics, linear=self.numerics.plain),
        )
        self.out.load(weights / "out_proj")
        self.norm.load(weights / "norm")
        kernel = (weights / "conv1d").tensor("weight", shape=(shape.channels, 1, shape.kernel))
        self.conv = kernel.squeeze(1).t().float().contiguous()
        self.dt_bias = weights.tensor("dt_bias", shape=(heads,)).float()
        if "A" in weights:
            self.rate = weights.tensor("A", shape=(heads,), dtype=torch.float32)
        else:
            self.rate = -weights.tensor("A_log", shape=(heads,), dtype=torch.float32).exp()

    def linear(self, weights: Weights, rows: Mapping[str, int], numerics: Numerics) -> Linear:
        """A projection of the hidden states that consists of these."""
        made = Linear(self.hidden, *rows.values(), bias=False, numerics=numerics)
        made.load(*(weights / name for name in rows))
        return made

    def forward(
        self, x: Tensor, batch: Batch, cache: LayerState, angles: tuple[Tensor, Tensor]
    ) -> Tensor:
        """x [T, hidden] → [T, hidden]; the sequences' states in ``cache`` move on."""
        made = self.project(x)
        out: Tensor = self.out(self.mixed(made, batch, cache).view(len(x), -1))
        return out

    def project(self, x: Tensor) -> Projected:
        """What does not depend on other tokens: x [T, hidden]."""
        return self.arranged(self.inputs(x), self.gates(x))

    def mixed(self, made: Projected, batch: Batch, cache: LayerState) -> Tensor:
        """What comes between the projections: → [T, Hv, Dv]; states move on."""
        for slot in batch.fresh_states:
            cache.clear(slot)
        return (self.mix_on_device if self.on_device else self.mix)(made, batch, cache)

    def mix(self, made: Projected, batch: Batch, cache: LayerState) -> Tensor:
        """What the convolution, the rule and the norm make of a step: → [T, Hv, Dv]."""
        mixed = made.z.new_empty(made.z.shape)
        gates = self.decays(made.gates)
        if batch.steps is not None:
            rows, slots = batch.steps
            mixed[rows] = self.step(made.qkv, gates, rows, slots, cache)
        for span in batch.spans:
            if span.length > 1:
                mixed[span.rows] = self.prefill(made.qkv, gates, span.rows, span.state, cache)
        normed: Tensor = self.norm(mixed, made.z)
        return normed

    def mix_on_device(self, made: Projected, batch: Batch, cache: LayerState) -> Tensor:
        """`mix` by kernels of a GPU, which take all sequences of a step at once."""
        from helexa.engine.kernels import delta_device_triton as kernels  # only GPUs have triton

        constants = kernels.Constants(self.conv, self.rate, self.dt_bias, self.delta.tiled)
        mixed = made.z.new_empty(made.z.shape)
        longest = max((span.length for span in batch.spans), default=1)
        with device_of(mixed):
            if batch.steps is not None:
                kernels.steps(made.qkv, made.gates, batch.steps, constants, cache, mixed)
            if longest > 1:
                spans = batch.prompts
                spans = several_tokens(batch.spans, mixed.device) if spans is None else spans
                gates = self.decays(made.gates)
                kernels.prompts(made.qkv, gates, (spans, longest), constants, cache, mixed)
            return kernels.gated_norm_on_device(mixed, made.z, self.norm.gain, self.norm.floor)

    def arranged(self, y: Tensor, gates: Tensor) -> Projected:
        """Rows of `inputs` and of `gates` by what they are for, in whichever layout they came."""
        shape, rows = self.delta, len(y)
        each = shape.value_heads // shape.key_heads
        if self.grouped:
            sizes = [shape.key_dim] * 2 + [each * shape.value_dim] * 2
            *parts, z = torch.split(y.view(rows, shape.key_heads, -1), sizes, -1)
            y = torch.cat([part.reshape(rows, -1) for part in parts], -1)
        else:
            y, z = torch.split(y, [shape.channels, shape.value_size], -1)
        if self.grouped_gates:
            gates = gates.view(rows, shape.key_heads, 2, each).transpose(1, 2)
        z = z.reshape(rows, shape.value_heads, shape.value_dim)
        return Projected(y, z, gates.reshape(rows, 2, shape.value_heads))

    def decays(self, gates: Tensor) -> tuple[Tensor, Tensor]:
        """gates [T, 2, Hv] → g and beta [T, Hv] float32."""
        b, a = gates.float().unbind(1)
        return self.rate * F.softplus(a + self.dt_bias), b.sigmoid()

    def step(
        self,
        qkv: Tensor,
        gates: tuple[Tensor, Tensor],
        rows: slice | Tensor,
        slots: slice | Tensor,
        cache: LayerState,
    ) -> Tensor:
        """One token of each of R sequences: qkv [T, C], g and beta [T, Hv] → [R, Hv, Dv]."""
        qkv, before = causal_conv(qkv[rows].unsqueeze(1), cache.conv[slots], self.conv)
        cache.conv[slots] = before
        q, k, v = (part.squeeze(1) for part in self.heads(qkv))
        g, beta = (gate[rows] for gate in gates)
        if isinstance(slots, slice) and self.numerics.fused_delta:
            return delta_step_in_place(q, k, v, g, beta, cache.recurrent[slots])
        out, cache.recurrent[slots] = delta_step(q, k, v, g, beta, cache.recurrent[slots])
        return out

    def prefill(
        self, qkv: Tensor, gates: tuple[Tensor, Tensor], rows: slice, slot: int, cache: LayerState
    ) -> Tensor:
        """L tokens of one sequence: qkv [T, C], g and beta [T, Hv] → [L, Hv, Dv]."""
        qkv, before = causal_conv(qkv[rows], cache.conv[slot], self.conv)
        cache.conv[slot] = before
        q, k, v = (part.unsqueeze(0) for part in self.heads(qkv))
        rule = chunked_delta_rule if self.numerics.chunked_delta else recurrent_delta_rule
        state = cache.recurrent[slot : slot + 1]
        g, beta = (gate[rows].unsqueeze(0) for gate in gates)
        out, last = rule(q, k, v, g, beta, state)
        state.copy_(last)
        return out.squeeze(0)

    def heads(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """qkv [..., C] → q, k [..., Hv, Dk], normalised, q scaled, and v [..., Hv, Dv], float32."""
        shape = self.delta
        sizes = [shape.key_size, shape.key_size, shape.value_size]
        q, k, v = torch.split(qkv.float(), sizes, -1)
        q, k = (l2norm(part.view(*part.shape[:-1], shape.key_heads, -1)) for part in (q, k))
        each = shape.value_heads // shape.key_heads
        q = repeat_heads(q * shape.key_dim**-0.5, each, tiled=shape.tiled)
        k = repeat_heads(k, each, tiled=shape.tiled)
        return q, k, v.view(*v.shape[:-1], shape.value_heads, -1)


def has_kernels(numerics: Numerics) -> bool:
    """Whether the rule runs by kernels of its own: on a GPU with triton, none switched off."""
    wanted = numerics.fused_delta and numerics.chunked_delta
    return wanted and numerics.device.type == "cuda" and has_triton()


def l2norm(x: Tensor) -> Tensor:
    """x / √(Σx² + 1e-6) over the last axis."""
    return x * torch.rsqrt((x * x).sum(-1, keepdim=True) + L2_EPS)


def repeat_heads(x: Tensor, each: int, *, tiled: bool) -> Tensor:
    """Key heads for value heads: x [..., Hk, D] → [..., Hk · each, D].

    Value head j gets key head j // each, or j mod Hk if ``tiled``.
    """
    if each == 1:
        return x
    if tiled:
        return x.repeat(*(1,) * (x.dim() - 2), each, 1)
    return x.repeat_interleave(each, -2)
