"""How fast a model has been lately, as smoothed rates."""

from __future__ import annotations

from typing import Final

SMOOTHING: Final = 0.3
MIN_PREFILL_TOKENS: Final = 128  # shorter prefills measure the fixed cost of a step


class Rate:
    """An exponential average of tokens per second; 0.0 before the first sample."""

    def __init__(self, smoothing: float = SMOOTHING) -> None:
        self.tokens_per_s = 0.0
        self._smoothing = smoothing

    def add(self, tokens: int, seconds: float) -> None:
        """Count a sample; the first is taken as is, one of no tokens or no time is ignored."""
        if tokens <= 0 or seconds <= 0:
            return
        rate = tokens / seconds
        if self.tokens_per_s:
            rate = self.tokens_per_s + self._smoothing * (rate - self.tokens_per_s)
        self.tokens_per_s = rate


class Rates:
    """Prefill (computed prompt tokens only) and decode speed."""

    def __init__(self) -> None:
        self.prefill = Rate()
        self.decode = Rate()

    def add_prefill(self, tokens: int, seconds: float) -> None:
        """Count a prompt of which ``tokens`` were computed, unless it is too short to tell."""
        if tokens >= MIN_PREFILL_TOKENS:
            self.prefill.add(tokens, seconds)

    def add_decode(self, tokens: int, seconds: float) -> None:
        """Count an answer of ``tokens``."""
        self.decode.add(tokens, seconds)
