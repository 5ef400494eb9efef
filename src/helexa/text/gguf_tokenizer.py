"""A tokenizer from the metadata of a GGUF file, in the form of a tokenizer.json.

Source of the keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md#tokenizer
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from helexa.errors import CheckpointError
from helexa.text.gguf_merges import merges_of_scores

WHOLE: Final = "tokenizer.huggingface.json"
AT: Final = "tokenizer.ggml."
HINT: Final = "put the model's tokenizer.json beside the GGUF file"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 1, 2, 3, 4, 5
LONGEST: Final = 1024
"""Characters of a token; those of real vocabularies have a few hundred at most."""
SPACE: Final = "\u2581"
"""What SentencePiece writes for a space."""

CONTRACTIONS: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
TAIL: Final = r"[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@dataclass(frozen=True, slots=True)
class Splitting:
    """How a byte-level BPE cuts text before it merges, what it does to it, and what it puts first.

    ``whole`` takes a word that is a token as that, whatever its merges say.
    """

    pattern: str
    nfc: bool
    whole: bool = False
    add_bos: bool = False


SPLITTINGS: Final[Mapping[str, Splitting]] = {
    "qwen2": Splitting(
        rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+{TAIL}",
        nfc=True,
    ),
    "qwen35": Splitting(
        rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
        rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+{TAIL}",
        nfc=True,
    ),
    "llama-bpe": Splitting(
        rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}"
        rf"| ?[^\s\p{{L}}\p{{N}}]+{TAIL}",
        nfc=False,
        whole=True,
        add_bos=True,
    ),
}
"""By `tokenizer.ggml.pre`."""


def gguf_tokenizer(metadata: Mapping[str, Any], source: str) -> str:
    """The text of a tokenizer.json that does what the metadata say.

    Raises CheckpointError, naming ``source``, for metadata that are absent or damaged, and for a
    kind of tokenizer that is not known.
    """
    whole = metadata.get(WHOLE)
    if isinstance(whole, str) and whole.strip():
        return whole
    vocabulary = Vocabulary(metadata, source)
    kind = metadata.get(f"{AT}model")
    if kind == "gpt2":
        parts = byte_level(vocabulary)
    elif kind == "llama":
        parts = sentence_piece(vocabulary)
    else:
        raise vocabulary.unknown("model", ("gpt2", "llama"))
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": vocabulary.added_tokens(),
            **parts,
        },
        ensure_ascii=False,
    )


def gguf_special_tokens(metadata: Mapping[str, Any] | None) -> dict[str, str]:
    """The texts of `bos_token` and others, as a tokenizer_config.json has them."""
    tokens = (metadata or {}).get(f"{AT}tokens")
    named = {}
    for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        id = (metadata or {}).get(f"{AT}{key}_token_id")
        if isinstance(tokens, list) and isinstance(id, int) and 0 <= id < len(tokens):
            named[f"{name}_token"] = str(tokens[id])
    return named


class Vocabulary:
    """The tokens of the metadata, checked; ``texts[id]`` is as the model or a reader writes it."""

    def __init__(self, metadata: Mapping[str, Any], source: str) -> None:
        self.metadata = metadata
        self.source = source
        tokens = self.listed("tokens", str)
        if not tokens:
            raise self.damaged("tokens", "is absent")
        if max(map(len, tokens)) > LONGEST:
            raise self.damaged("tokens", f"holds one of more than {LONGEST} characters")
        types = self.listed("token_type", int) or [NORMAL] * len(tokens)
        if len(types) != len(tokens):
            raise self.damaged("token_type", f"has {len(types)} entries for {len(tokens)} tokens")
        self.types: list[int] = types
        piece_wise = metadata.get(f"{AT}model") == "llama"
        self.texts: list[str] = [
            text.replace(SPACE, " ") if piece_wise and type == USER_DEFINED else text
            for text, type in zip(tokens, types, strict=True)
        ]
        self.ids = {
            text: id
            for id, (text, type) in enumerate(zip(self.texts, types, strict=True))
            if type != UNUSED
        }
        if len(self.ids) + types.count(UNUSED) != len(tokens):
            raise self.damaged("tokens", "holds a token twice")

    def listed(self, key: str, kind: type) -> list[Any]:
        """A list of the metadata, empty if absent."""
        found = self.metadata.get(f"{AT}{key}", [])
        if not isinstance(found, list) or not all(isinstance(item, kind) for item in found):
            raise self.damaged(key, "is no list of the right kind")
        return found

    def flag(self, key: str, default: bool) -> bool:
        found = self.metadata.get(f"{AT}{key}", default)
        if not isinstance(found, bool):
            raise self.damaged(key, "is neither true nor false")
        return found

    def named(self, key: str) -> str | None:
        """The text of the token that an id of the metadata means, None if there is no such id."""
        id = self.metadata.get(f"{AT}{key}_token_id")
        if id is None:
            return None
        if not isinstance(id, int) or not 0 <= id < len(self.texts):
            raise self.damaged(f"{key}_token_id", f"is {id!r}, with {len(self.texts)} tokens")
        return self.texts[id]

    def added_tokens(self) -> list[dict[str, Any]]:
        """Tokens that are cut out of a text before anything else, special ones and others."""
        return [
            {
                "id": id,
                "content": self.texts[id],
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": type == CONTROL,
            }
            for id, type in enumerate(self.types)
            if type in (CONTROL, USER_DEFINED)
        ]

    def around(self, *, add_bos: bool) -> dict[str, Any] | None:
        """What is put before and after a text, as a post processor; None for nothing."""
        before = [self.named("bos")] if self.flag("add_bos_token", add_bos) else []
        after = [self.named("eos")] if self.flag("add_eos_token", False) else []
        if None in (*before, *after):
            raise self.damaged("bos_token_id or eos_token_id", "is absent, but to be added")
        if not (before or after):
            return None

        def framed(*names: str) -> list[dict[str, Any]]:
            return [
                *({"SpecialToken": {"id": text, "type_id": 0}} for text in before),
                *({"Sequence": {"id": name, "type_id": 0}} for name in names),
                *({"SpecialToken": {"id": text, "type_id": 0}} for text in after),
            ]

        known = {
            text: {"id": text, "ids": [self.ids[text]], "tokens": [text]}
            for text in (*before, *after)
            if text is not None
        }
        return {
            "type": "TemplateProcessing",
            "single": framed("A"),
            "pair": framed("A", "B"),
            "special_tokens": known,
        }

    def damaged(self, key: str, why: str) -> CheckpointError:
        return CheckpointError(f"{self.source}: metadata `{AT}{key}` {why}", hint=HINT)

    def unknown(self, key: str, known: tuple[str, ...]) -> CheckpointError:
        given = self.metadata.get(f"{AT}{key}")
        return CheckpointError(
            f"{self.source}: unknown tokenizer: metadata `{AT}{key}` is {given!r}",
            hint=f"known: {', '.join(known)}; or {HINT}",
        )


def byte_level(vocabulary: Vocabulary) -> dict[str, Any]:
    """Byte-level BPE: a text is cut by a pattern, its bytes are merged by rank."""
    splitting = SPLITTINGS.get(str(vocabulary.metadata.get(f"{AT}pre")))
    if splitting is None:
        raise vocabulary.unknown("pre", tuple(SPLITTINGS))
    merges = [merge.split(" ", 1) for merge in vocabulary.listed("merges", str)]
    if not all(len(pair) == 2 for pair in merges):
        raise vocabulary.damaged("merges", "holds an entry that is no pair")
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    cut = {"type": "Split", "pattern": {"Regex": splitting.pattern}, "behavior": "Isolated"}
    return {
        "normalizer": {"type": "NFC"} if splitting.nfc else None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{**cut, "invert": False}, {**level, "use_regex": False}],
        },
        "post_processor": vocabulary.around(add_bos=splitting.add_bos),
        "decoder": {**level, "use_regex": False},
        "model": model(vocabulary.ids, merges, ignore_merges=splitting.whole),
    }


def sentence_piece(vocabulary: Vocabulary) -> dict[str, Any]:
    """SentencePiece's BPE: characters are merged by score, unknown ones become bytes.

    Source: https://github.com/google/sentencepiece
    """
    if vocabulary.flag("remove_extra_whitespaces", False):
        raise vocabulary.damaged("remove_extra_whitespaces", "is true, which is not supported")
    if vocabulary.listed("precompiled_charsmap", int):
        raise vocabulary.damaged("precompiled_charsmap", "is there, which is not supported")
    scores = vocabulary.listed("scores", float)
    if len(scores) != len(vocabulary.texts):
        raise vocabulary.damaged("scores", f"has {len(scores)} entries")
    prefix = vocabulary.flag("add_space_prefix", True)
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    before = [{"type": "Prepend", "prepend": SPACE}] if prefix else []
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    unknown = next(
        (t for t, k in zip(vocabulary.texts, vocabulary.types, strict=True) if k == 2), None
    )
    merges = merges_of_scores(
        {text: scores[id] for text, id in vocabulary.ids.items() if vocabulary.types[id] == NORMAL}
    )
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*before, spaces]},
        "pre_tokenizer": None,
        "post_processor": vocabulary.around(add_bos=True),
        "decoder": {"type": "Sequence", "decoders": [*decoders, *strip]},
        "model": model(
            vocabulary.ids, merges, unk_token=unknown, byte_fallback=True, fuse_unk=True
        ),
    }


def model(ids: Mapping[str, int], merges: list[list[str]], **changes: object) -> dict[str, Any]:
    """The `model` of a tokenizer.json that merges pairs in the order of the list."""
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        **changes,
        "vocab": ids,
        "merges": merges,
    }
