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

Metadata = dict[str, str | bool | list[str] | list[int]]


def gguf_vocabulary(text: str, size: int, source: str) -> Metadata:
    """What a GGUF file says of the tokenizer that a tokenizer.json describes.

    ``size`` is the model's vocabulary; ids without a token are marked as unused. A tokenizer that
    GGUF's own keys cannot say goes in whole: this program reads that, others do not. Raises
    CheckpointError, naming ``source``, for what is no tokenizer.json of byte-level BPE.
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
        f"{AT}tokens": [vocabulary.get(id, f"[PAD{id}]") for id in range(size)],
        f"{AT}token_type": [types.get(id, UNUSED) for id in range(size)],
        f"{AT}merges": merges,
        f"{AT}add_bos_token": False,
    }
    name = splitting_of(tokenizer)
    found[f"{AT}pre"] = name or "default"
    if name is None:
        found[WHOLE] = text
    return found


def splitting_of(tokenizer: Mapping[str, Any]) -> str | None:
    """GGUF's name for how a tokenizer cuts text before it merges; None if it has none.

    One that puts something before or after a text has none, either: nothing of that is written.
    """
    pre = tokenizer.get("pre_tokenizer") or {}
    steps = pre.get("pretokenizers") or [pre]
    patterns = [step["pattern"].get("Regex") for step in steps if step.get("type") == "Split"]
    kinds = [step.get("type") for step in steps]
    odd = any(step.get("add_prefix_space") for step in steps) or any(
        step.get("behavior") != "Isolated" or step.get("invert")
        for step in steps
        if step.get("type") == "Split"
    )
    flags = ("lstrip", "rstrip", "single_word")
    odd |= any(token.get(flag) for token in tokenizer.get("added_tokens") or [] for flag in flags)
    nfc = (tokenizer.get("normalizer") or {}).get("type") == "NFC"
    framed = (tokenizer.get("post_processor") or {}).get("type") not in (None, "ByteLevel")
    whole = bool(tokenizer["model"].get("ignore_merges"))
    if kinds != ["Split", "ByteLevel"] or framed or odd:
        return None
    for name, splitting in SPLITTINGS.items():
        if (splitting.pattern, splitting.nfc, splitting.whole) == (patterns[0], nfc, whole):
            return name
    return None
