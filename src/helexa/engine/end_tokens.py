"""Which token ids end an answer, gathered from everything a model folder says about it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from helexa.engine.checkpoint.checkpoint import Checkpoint
from helexa.engine.params import GenerationDefaults

if TYPE_CHECKING:
    from helexa.engine.checkpoint.files import TokenizerFiles
    from helexa.engine.config import ModelConfig

CONTROL: Final = 3
"""The type of a special token in GGUF's list of types."""
HEADER: Final = "<|im_start|>"
CHAT_ENDS: Final = frozenset({"<|im_end|>", "<|eot_id|>"})
END_MARKERS: Final = CHAT_ENDS | {"<|endoftext|>"}


def end_token_ids(checkpoint: Checkpoint, defaults: GenerationDefaults) -> frozenset[int]:
    """The ids that end an answer unless a request says otherwise.

    Those of generation_config.json and config.json, the tokenizer's eos token, and the usual
    markers where the tokenizer has them. Ids outside the vocabulary are left out.
    """
    return frozenset(end_tokens(checkpoint.config, checkpoint.tokenizer_files(), defaults))


def end_tokens(
    config: ModelConfig, files: TokenizerFiles, defaults: GenerationDefaults
) -> dict[int, str]:
    """The same, with the text of each; first those of the config, then of the defaults.

    The text of an id that only they name is empty.
    """
    settings = {**_read(files.special_tokens_map), **_read(files.tokenizer_config)}
    tokenizer = _read(files.tokenizer_json)
    eos = _text(settings.get("eos_token"))
    known = {text: id for id, text in (*_listed(settings), *_added(tokenizer))}
    if not tokenizer:
        known |= _in_gguf(files.gguf or {})
    if eos and eos not in known:  # an ordinary entry of the vocabulary
        known |= _vocabulary(tokenizer, eos)
    texts = {id: text for text, id in known.items()}
    found = (known[text] for text in (eos, *sorted(END_MARKERS)) if text in known)
    ids = (*config.eos_token_ids, *defaults.eos_token_ids, *found)
    return {id: texts.get(id, "") for id in ids if 0 <= id < config.vocab_size}


def header_token_ids(checkpoint: Checkpoint) -> frozenset[int]:
    """The ids that open a message of a chat: `<|im_start|>`, or else every special token."""
    files = checkpoint.tokenizer_files()
    tokenizer = _read(files.tokenizer_json)
    special = _special(tokenizer) if tokenizer else _controls(files.gguf or {})
    return frozenset({special[HEADER]}) if HEADER in special else frozenset(special.values())


def _listed(settings: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    """Ids and texts of the special tokens that tokenizer_config.json lists, if it does."""
    listed = settings.get("added_tokens_decoder")
    for id, token in listed.items() if isinstance(listed, dict) else ():
        if id.isdecimal():
            yield int(id), _text(token)


def _added(tokenizer: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    """Ids and texts of the special tokens of tokenizer.json."""
    added = tokenizer.get("added_tokens")
    for token in added if isinstance(added, list) else ():
        if isinstance(token, dict) and isinstance(token.get("id"), int):
            yield token["id"], _text(token)


def _special(tokenizer: Mapping[str, Any]) -> dict[str, int]:
    """The special tokens of tokenizer.json."""
    added = tokenizer.get("added_tokens")
    tokens = (
        [token for token in added if isinstance(token, dict)] if isinstance(added, list) else []
    )
    marked = [token for token in tokens if token.get("special")]
    return {text: id for id, text in _added({"added_tokens": marked})}


def _controls(metadata: Mapping[str, Any]) -> dict[str, int]:
    """The same of the metadata of a GGUF file."""
    tokens = metadata.get("tokenizer.ggml.tokens")
    types = metadata.get("tokenizer.ggml.token_type")
    if not isinstance(tokens, list) or not isinstance(types, list):
        return {}
    kinds = enumerate(zip(tokens, types, strict=False))
    return {str(text): id for id, (text, kind) in kinds if kind == CONTROL}


def _in_gguf(metadata: Mapping[str, Any]) -> dict[str, int]:
    """The ids of the usual markers in the metadata of a GGUF file; its eos is in the config."""
    tokens = metadata.get("tokenizer.ggml.tokens")
    listed = tokens if isinstance(tokens, list) else []
    return {text: id for id, text in enumerate(listed) if text in END_MARKERS}


def _vocabulary(tokenizer: Mapping[str, Any], text: str) -> dict[str, int]:
    """The id of ``text`` in the vocabulary, which is a table or a list of [piece, score]."""
    model = tokenizer.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, dict) and isinstance(vocabulary.get(text), int):
        return {text: vocabulary[text]}
    if isinstance(vocabulary, list):
        places = (at for at, entry in enumerate(vocabulary) if entry and entry[0] == text)
        return dict.fromkeys((text,), next(places, -1))
    return {}


def _text(token: object) -> str:
    """A token's text, whether it is stored as such or as an object."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else ""


def _read(path: Path | None) -> Mapping[str, Any]:
    """A JSON object; empty if the file is missing or is none: the text layer says so, not this."""
    try:
        raw = json.loads(path.read_text("utf-8")) if path is not None else None
    except (OSError, ValueError, RecursionError):
        raw = None
    return raw if isinstance(raw, dict) else {}
