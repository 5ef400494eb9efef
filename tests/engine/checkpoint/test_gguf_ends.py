"""Which key of a GGUF file names which token that ends an answer."""

from __future__ import annotations

import pytest

from helexa.engine.checkpoint.gguf_config import END_IDS
from helexa.engine.checkpoint.gguf_ends import gguf_ends

IM, EOT, TEXT, EOM = "<|im_end|>", "<|eot_id|>", "<|endoftext|>", "<|eom_id|>"


@pytest.mark.parametrize(
    ("ends", "eos", "said", "left"),
    [
        ({}, None, (None, None, None), []),
        ({5: ""}, None, (5, None, None), []),
        ({1: IM, 2: TEXT}, None, (1, None, 2), []),  # the turn's end is found by its text
        ({2: TEXT, 1: IM}, None, (2, 1, None), []),
        ({1: "<|end_of_text|>", 8: EOM, 9: EOT}, None, (1, 9, 8), []),
        ({1: "a", 8: EOM}, None, (1, None, 8), []),
        ({1: "a", 8: "b", 9: ""}, None, (1, 8, 9), []),
        ({2: TEXT, 7: "</tool_call>", 5: "", 1: IM}, None, (2, 7, 5), []),
        ({1: IM, 7: "a", 5: "", 2: TEXT, 6: "c"}, None, (1, 7, 5), [6]),
        ({2: TEXT, 8: EOM, 7: "a", 6: "b"}, None, (2, 7, 8), [6]),
        ({1: IM, 3: "x"}, 3, (3, 1, None), []),
        ({1: IM}, 4, (4, 1, None), []),
    ],
)
def test_the_keys_of_ends(
    ends: dict[int, str],
    eos: int | None,
    said: tuple[int | None, ...],
    left: list[int],
) -> None:
    found, without = gguf_ends(ends, eos)
    assert tuple(found.get(name) for name in END_IDS) == said
    assert without == left
