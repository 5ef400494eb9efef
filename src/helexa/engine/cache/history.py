"""The prompts seen lately, to say which one a new prompt is closest to and where they part."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

TOKEN_BYTES = 4


@dataclass(frozen=True, slots=True)
class Nearest:
    """The known prompt that shares most with another one: so many tokens, of so many."""

    common_tokens: int
    length_tokens: int


class PromptHistory:
    """The last ``max_prompts`` different prompts, or fewer if they exceed ``max_tokens`` together.

    A prompt is the bytes of its token ids, 4 each. Prompts are compared by memory comparison of
    slices, so a look-up costs microseconds per known prompt and never a loop over tokens.
    """

    def __init__(self, max_prompts: int = 64, max_tokens: int = 1 << 20) -> None:
        self.max_prompts = max_prompts
        self.max_tokens = max_tokens
        self._prompts: OrderedDict[bytes, None] = OrderedDict()
        self._tokens = 0

    def __len__(self) -> int:
        return len(self._prompts)

    def record(self, prompt: bytes) -> None:
        """Remember a prompt as the most recent one."""
        if prompt in self._prompts:
            self._prompts.move_to_end(prompt)
            return
        self._prompts[prompt] = None
        self._tokens += len(prompt) // TOKEN_BYTES
        while self._prompts and (
            len(self._prompts) > self.max_prompts or self._tokens > self.max_tokens
        ):
            oldest, _ = self._prompts.popitem(last=False)
            self._tokens -= len(oldest) // TOKEN_BYTES

    def nearest(self, prompt: bytes) -> Nearest | None:
        """The known prompt with the longest common beginning; of equals the shortest, the latest.

        None if no known prompt begins with the same token.
        """
        best = Nearest(0, 0)
        for known in reversed(self._prompts):
            if (
                known[: best.common_tokens * TOKEN_BYTES]
                != prompt[: best.common_tokens * TOKEN_BYTES]
            ):
                continue
            found = Nearest(common_prefix(prompt, known), len(known) // TOKEN_BYTES)
            if found.common_tokens > best.common_tokens or (
                found.common_tokens == best.common_tokens
                and found.length_tokens < best.length_tokens
            ):
                best = found
        return best if best.common_tokens else None


def common_prefix(left: bytes, right: bytes) -> int:
    """How many tokens two prompts have in common from the start, found by bisection."""
    low, high = 0, min(len(left), len(right)) // TOKEN_BYTES
    step = 16
    while low < high:
        middle = min(low + step, high)
        part = slice(low * TOKEN_BYTES, middle * TOKEN_BYTES)
        if left[part] == right[part]:
            low = middle
            step *= 2
        else:
            high = middle - 1
            step = max(1, (high - low + 1) // 2)
    return low
