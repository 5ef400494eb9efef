"""The gated delta rule: a state that forgets, and that corrects what it holds for each key.

Source: arXiv:2412.06464 (Gated Delta Networks), arXiv:2406.06484 (the chunked form of the delta
rule).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 64


def recurrent_delta_rule(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """One token after the other, for B sequences of L tokens: the definition.

        S ← e^g · S;  S ← S + k ⊗ β(v − Sᵀk);  o = Sᵀq

    q and k [B, L, H, Dk], v [B, L, H, Dv], g (log of what is kept, ≤ 0) and beta [B, L, H],
    state S [B, H, Dk, Dv], all float32. → o [B, L, H, Dv] and the last state.
    """
    outputs = []
    for t in range(q.shape[1]):
        out, state = delta_step(q[:, t], k[:, t], v[:, t], g[:, t], beta[:, t], state)
        outputs.append(out)
    return torch.stack(outputs, 1), state


def delta_step(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """One token of each of B sequences: shapes as `recurrent_delta_rule`'s, without L."""
    state = state * g.exp()[..., None, None]
    held = (k.unsqueeze(-2) @ state).squeeze(-2)
    change = (v - held) * beta.unsqueeze(-1)
    state = state + k.unsqueeze(-1) * change.unsqueeze(-2)
    return (q.unsqueeze(-2) @ state).squeeze(-2), state


def delta_step_in_place(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor
) -> Tensor:
    """`delta_step` that overwrites the state, so that it is not copied: → o [B, H, Dv]."""
    flat = state.flatten(0, 1)  # [B·H, Dk, Dv], a view
    queries, keys = q.reshape(-1, 1, q.shape[-1]), k.reshape(-1, 1, k.shape[-1])
    flat.mul_(g.exp().view(-1, 1, 1))
    held = torch.bmm(keys, flat)
    change = (v.reshape(held.shape) - held).mul_(beta.reshape(-1, 1, 1))
    flat.baddbmm_(keys.transpose(1, 2), change)
    return torch.bmm(queries, flat).view(v.shape)


def chunked_delta_rule(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """`recurrent_delta_rule` of one sequence (B = 1), 64 tokens at a time.

    Within a chunk the corrections solve a triangular system; only the chunks follow one another.
    """
    length = q.shape[1]
    whole = length - length % CHUNK
    outputs, last = [], state[0]
    for start, end, size in ((0, whole, CHUNK), (whole, length, length - whole)):
        if start < end:
            part = [x[0, start:end].view(-1, size, *x.shape[2:]) for x in (q, k, v, g, beta)]
            out, last = _chunks(*(x.transpose(1, 2) for x in part), state=last)
            outputs.append(out.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs).unsqueeze(0), last.unsqueeze(0)


def _chunks(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, *, state: Tensor
) -> tuple[Tensor, Tensor]:
    """N chunks of C tokens: q, k [N, H, C, Dk], v [N, H, C, Dv], g, beta [N, H, C], S [H, Dk, Dv].

    With γ the sum of g so far and Γᵢⱼ = e^(γᵢ − γⱼ) for j ≤ i, else 0: A = I + strictly lower part
    of (βk kᵀ ∘ Γ), U = A⁻¹ βv, W = A⁻¹ (βk · e^γ); chunk by chunk v' = U − W S,
    o = (q · e^γ) S + (q kᵀ ∘ Γ) v', S ← e^γ_C · S + (k · e^(γ_C − γ))ᵀ v'.

    A is solved, never inverted by a product of powers: on repeated keys their entries explode.
    """
    size, values = q.shape[2], v.shape[-1]
    total = g.cumsum(-1)
    later = torch.ones(size, size, dtype=torch.bool, device=q.device).triu_(1)
    between = total.unsqueeze(-1) - total.unsqueeze(-2)
    decay = between.masked_fill_(later, -torch.inf).exp_()  # masked first: no e^large
    grown = total.exp().unsqueeze(-1)
    weighed, across = k * beta.unsqueeze(-1), k.transpose(-1, -2)
    system = (weighed @ across).mul_(decay)
    wanted = torch.cat((v * beta.unsqueeze(-1), weighed * grown), -1)
    solved = torch.linalg.solve_triangular(system, wanted, upper=False, unitriangular=True)
    fresh, known = torch.split(solved, [values, k.shape[-1]], -1)
    inside = (q @ across).mul_(decay)
    asked = q * grown
    kept = k * (total[..., -1:] - total).exp().unsqueeze(-1)
    outputs = []
    for n in range(len(q)):
        new = fresh[n] - known[n] @ state
        outputs.append(asked[n] @ state + inside[n] @ new)
        state = state * grown[n, :, -1:] + kept[n].transpose(-1, -2) @ new
    return torch.stack(outputs), state
