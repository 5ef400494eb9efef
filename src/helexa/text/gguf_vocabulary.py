"""A tokenizer.json as the metadata of a GGUF file: the way back from `gguf_tokenizer`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from helexa.errors import CheckpointError
from helexa.text.gguf_tokenizer import (
    AT,
    CONTROL,
    NORMAL,
    SPLITTINGS,
    UNUSED,
    USER_DEFINED,
    WHOLE,
)

Metadata = dict[str, str | bool | int | list[str] | list[int]]
FLAGS = ("lstrip", "rstrip", "single_word")


def gguf_vocabulary(text: str, size: int, source: str) -> tuple[Metadata, list[str]]:
    """What a GGUF file says of the tokenizer that a tokenizer.json describes, and what it cannot.

    ``size`` is the model's vocabulary; ids without a token are marked as unused. A tokenizer that
    GGUF's own keys cannot say goes in whole: this program reads that, others do not, and the list
    says what they may do differently. Raises CheckpointError, naming ``source``, for what is no
    tokenizer.json of byte-level BPE.
    """
    try:
        tokenizer = json.loads(text)
        model, added = tokenizer["model"], tokenizer.get("added_tokens") or []
        vocabulary = {int(id): str(token) for token, id in model["vocab"].items()}
        merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{source}: its tokenizer cannot be written to GGUF ({type(error).__name__}: {error})",
            hint="only tokenizers of byte-level BPE can",
        ) from error
    types = dict.fromkeys(vocabulary, NORMAL)
    for token in added:
        if vocabulary.get(token["id"], token["content"]) != token["content"]:
            raise CheckpointError(
                f"{source}: its tokenizer has two tokens with the id {token['id']}",
                hint="correct its tokenizer.json",
            )
        vocabulary[token["id"]] = token["content"]
        types[token["id"]] = CONTROL if token.get("special") else USER_DEFINED
    found: Metadata = {
        f"{AT}model": "gpt2",
        f"{AT}pre": splitting_of(tokenizer) or "default",
        f"{AT}tokens": [vocabulary.get(id, f"[PAD{id}]") for id in range(size)],
        f"{AT}token_type": [types.get(id, UNUSED) for id in range(size)],
        f"{AT}merges": merges,
        **around_of(tokenizer),
    }
    untold = differences(tokenizer)
    if untold:
        found[WHOLE] = text
    return found, untold


def differences(tokenizer: Mapping[str, Any]) -> list[str]:
    """What programs may do differently that read of a tokenizer what GGUF's own keys say."""
    found = []
    if splitting_of(tokenizer) is None:
        found.append("cut text into other tokens")
    if any(token.get(flag) for token in tokenizer.get("added_tokens") or [] for flag in FLAGS):
        found.append("treat spaces and letters beside special tokens differently")
    if frame_of(tokenizer) is None:
        found.append("not put the same tokens before and after a text")
    return found


def splitting_of(tokenizer: Mapping[str, Any]) -> str | None:
    """GGUF's name for how a tokenizer cuts text before it merges; None if it has none."""
    pre = tokenizer.get("pre_tokenizer") or {}
    steps = pre.get("pretokenizers") or [pre]
    kinds = [step.get("type") for step in steps]
    if kinds != ["Split", "ByteLevel"] or any(step.get("add_prefix_space") for step in steps):
        return None
    cut = steps[0]
    if cut.get("behavior") != "Isolated" or cut.get("invert"):
        return None
    normalizer = (tokenizer.get("normalizer") or {}).get("type")
    if normalizer not in (None, "NFC"):
        return None
    whole = bool(tokenizer["model"].get("ignore_merges"))
    wanted = (cut["pattern"].get("Regex"), normalizer == "NFC", whole)
    for name, splitting in SPLITTINGS.items():
        if (splitting.pattern, splitting.nfc, splitting.whole) == wanted:
            return name
    return None


def around_of(tokenizer: Mapping[str, Any]) -> Metadata:
    """What is put before and after a text; nothing where GGUF cannot say it."""
    before, after = frame_of(tokenizer) or (None, None)
    found: Metadata = {f"{AT}add_bos_token": before is not None}
    if before is not None:
        found[f"{AT}bos_token_id"] = before
    if after is not None:
        found |= {f"{AT}add_eos_token": True, f"{AT}eos_token_id": after}
    return found


def frame_of(tokenizer: Mapping[str, Any]) -> tuple[int | None, int | None] | None:
    """The ids of the tokens before and after a text, None for no token.

    None for what GGUF has no keys for, such as two tokens before a text.
    """
    post = tokenizer.get("post_processor") or {"type": "ByteLevel"}
    steps = post.get("processors") if post.get("type") == "Sequence" else [post]
    steps = [step for step in steps or [] if step.get("type") != "ByteLevel"]  # those move offsets
    if not steps:
        return None, None
    if len(steps) > 1 or steps[0].get("type") != "TemplateProcessing":
        return None
    known = steps[0].get("special_tokens") or {}
    sides: list[list[int]] = [[]]
    for item in steps[0].get("single") or []:
        if "Sequence" in item:
            sides.append([])
        else:
            sides[-1] += known[item["SpecialToken"]["id"]]["ids"]
    if len(sides) != 2 or max(map(len, sides)) > 1:
        return None
    before, after = (side[0] if side else None for side in sides)
    return before, after
