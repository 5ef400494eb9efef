"""What a request changes about the model's logits before a token is chosen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

import torch
from torch import Tensor

from helexa.engine.params import SamplingParams
from helexa.engine.upload import moved, upload

T = TypeVar("T")

_WORD_BITS: Final = 32
_PENALTY_RANGE: Final = (1e-30, 1e30)  # what float32 can divide by


@dataclass(frozen=True, slots=True, eq=False)
class SampleRow:
    """What is needed, beside the logits, to choose one sequence's next token.

    ``params`` resolved; ``generated`` its tokens so far, never the prompt's: their number is the
    index of the draw; ``blocked`` ids that may not come now; ``allowed`` the ids that may, one bit
    each: int32 [ceil(V / 32)], token i at bit i % 32 of word i // 32.
    """

    params: SamplingParams
    generated: Sequence[int] = ()
    blocked: Collection[int] = ()
    allowed: Tensor | None = None


def allowing(row: SampleRow, mask: bytes | None, vocab_size: int) -> SampleRow:
    """A row with a new mask, one bit for each token; ids past its end are masked out."""
    if mask is None:
        return row if row.allowed is None else replace(row, allowed=None)
    size = -(-vocab_size // _WORD_BITS) * (_WORD_BITS // 8)
    words = bytearray(mask[:size].ljust(size, b"\0"))
    return replace(row, allowed=torch.frombuffer(words, dtype=torch.int32))


def known(value: T | None) -> T:
    """A field that resolving has filled; ValueError if it has not."""
    if value is None:
        raise ValueError("the sampling parameters are not resolved; pass them through resolve()")
    return value


def has_changes(row: SampleRow) -> bool:
    """Whether ``change`` could do anything."""
    params = row.params
    return bool(
        row.blocked
        or row.allowed is not None
        or params.logit_bias
        or (known(params.repetition_penalty) != 1.0 and row.generated)
        or ((params.presence_penalty or params.frequency_penalty) and row.generated)
    )


def changed_logits(logits: Tensor, rows: Sequence[SampleRow], which: Sequence[int]) -> Tensor:
    """Some rows of logits [R, V], float32 and changed as they ask: a copy [C, V]."""
    copies = logits.index_select(0, upload(which, logits.device)).float()
    for copy, i in zip(copies, which, strict=True):
        change(copy, rows[i])
    return copies


def change(logits: Tensor, row: SampleRow) -> None:
    """Apply masks, bias and penalties, in this order, to logits [V] float32, in place."""
    params = row.params
    _mask(logits, row)
    if params.logit_bias:
        ids, biases = _columns(params.logit_bias, logits)
        logits[ids] += biases
    penalty, window = known(params.repetition_penalty), known(params.repeat_last_n)
    if penalty != 1.0 and window and row.generated:
        _repetition(logits, sorted(set(row.generated[-window:])), penalty)
    if (params.presence_penalty or params.frequency_penalty) and row.generated:
        ids, counts = _columns(Counter(row.generated), logits)
        logits[ids] += -params.presence_penalty - params.frequency_penalty * counts


def _mask(logits: Tensor, row: SampleRow) -> None:
    if row.allowed is not None:
        bits = torch.arange(_WORD_BITS, dtype=torch.int32, device=logits.device)
        words = moved(row.allowed, logits.device)
        forbidden = ((words[:, None] >> bits) & 1).view(-1)[: logits.numel()] == 0
        logits.masked_fill_(forbidden, -torch.inf)
    ids = [token_id for token_id in row.blocked if token_id < logits.numel()]
    if ids:
        logits.index_fill_(0, upload(ids, logits.device), -torch.inf)


def _repetition(logits: Tensor, ids: list[int], penalty: float) -> None:
    """Logits ≥ 0 divided, < 0 multiplied: less likely. Source: CTRL, arXiv:1909.05858 §4.1."""
    at = upload(ids, logits.device)
    penalty = min(max(penalty, _PENALTY_RANGE[0]), _PENALTY_RANGE[1])
    now = logits[at]
    changed = torch.where(now >= 0, now / penalty, now * penalty)
    logits[at] = changed.clamp(max=torch.finfo(changed.dtype).max)


def _columns(values: Mapping[int, float], like: Tensor) -> tuple[Tensor, Tensor]:
    ids = upload(list(values.keys()), like.device)
    return ids, upload(list(values.values()), like.device, like.dtype)
