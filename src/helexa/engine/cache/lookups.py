"""What the prefix cache has done for prompts so far, and what it says of each."""

from __future__ import annotations

from helexa.engine.cache.history import TOKEN_BYTES, PromptHistory
from helexa.engine.outputs import CacheReason, CacheReport, PrefixStats
from helexa.engine.sequence import Sequence


class Lookups:
    """Totals, and the prompts seen lately.

    ``snapshots``: reuse goes by those, and not by pages. ``on`` False: nothing is ever reused.
    """

    def __init__(self, page_size: int, *, on: bool, snapshots: bool = False) -> None:
        self.history = PromptHistory()
        self._page_size = page_size
        self._on = on
        self._judge = judge_snapshots if snapshots else judge_pages
        self._lookups = self._hits = self._hit_tokens = self._prompt_tokens = 0
        self._last_miss: CacheReport | None = None

    def concerns(self, seq: Sequence) -> bool:
        """Whether a sequence reads and fills the cache."""
        return self._on and seq.cacheable

    def stats(self, evicted_blocks: int) -> PrefixStats:
        """Totals since the start."""
        return PrefixStats(
            lookups=self._lookups,
            hits=self._hits,
            hit_tokens=self._hit_tokens,
            prompt_tokens=self._prompt_tokens,
            evicted_blocks=evicted_blocks,
            last_miss=self._last_miss,
        )

    def started(self, seq: Sequence) -> None:
        """Note what a sequence found when it first ran."""
        if self.concerns(seq):
            seq.cached_tokens = min(seq.computed, seq.prompt_tokens - 1)
            seq.nearest = self.history.nearest(seq.prompt_bytes())

    def remember(self, seq: Sequence) -> None:
        """Note as much of a prompt as was computed, if that was not all: nobody reports of it."""
        if self.concerns(seq) and 0 < seq.computed < seq.prompt_tokens:
            self.history.record(seq.prompt_bytes()[: seq.computed * TOKEN_BYTES])

    def report(self, seq: Sequence) -> CacheReport:
        """What the cache did for a prompt that has just been computed; remembers the prompt."""
        if not self.concerns(seq):
            return CacheReport(0, "off")
        report = self._judge(seq, self._page_size)
        self.history.record(seq.prompt_bytes())
        self._lookups += 1
        self._hits += report.cached_tokens > 0
        self._hit_tokens += report.cached_tokens
        self._prompt_tokens += seq.prompt_tokens
        if report.reason != "hit":
            self._last_miss = report
        return report


def judge_pages(seq: Sequence, page_size: int) -> CacheReport:
    """Why a prompt reused as much as it did; the meanings stand with CacheReport."""
    nearest, cached = seq.nearest, seq.cached_tokens
    if nearest is None:
        return CacheReport(cached, "hit" if cached else "new")
    longest = seq.prompt_tokens - 1
    shared = min(nearest.common_tokens, longest) // page_size * page_size
    lost = min(nearest.length_tokens, longest) - cached
    parted = nearest.common_tokens < min(nearest.length_tokens, seq.prompt_tokens)
    at = nearest.common_tokens if parted else None
    if not cached and not shared:
        return CacheReport(0, "new", at, nearest.length_tokens)
    if cached < shared:
        return CacheReport(cached, "evicted", at, nearest.length_tokens)
    if lost < 2 * page_size:
        return CacheReport(cached, "hit", at, nearest.length_tokens)
    return CacheReport(cached, "diverged", at, nearest.length_tokens)


def judge_snapshots(seq: Sequence, page_size: int) -> CacheReport:
    """The same where a prompt is continued only from where a snapshot was taken."""
    nearest, cached = seq.nearest, seq.cached_tokens
    if nearest is None:
        return CacheReport(cached, "hit" if cached else "new")
    parted = nearest.common_tokens < min(nearest.length_tokens, seq.prompt_tokens)
    at = nearest.common_tokens if parted else None
    if not cached:
        reason: CacheReason = "no_snapshot" if nearest.common_tokens >= page_size else "new"
        return CacheReport(0, reason, at, nearest.length_tokens)
    lost = min(nearest.length_tokens, seq.prompt_tokens - 1) - cached
    reason = "diverged" if parted and lost >= 2 * page_size else "hit"
    return CacheReport(cached, reason, at, nearest.length_tokens)
