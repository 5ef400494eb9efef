"""Text to token ids and back, on the ``tokenizers`` library."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from helexa.engine.checkpoint.files import TokenizerFiles
from helexa.engine.checkpoint.reference import Offer
from helexa.errors import CheckpointError, InvalidRequest
from helexa.text.decoders import Decoder, parse_decoder
from helexa.text.detokenizer import Detokenizer
from helexa.text.gguf_tokenizer import gguf_special_tokens, gguf_tokenizer

LONG_TEXT = 8192
"""Characters; what is shorter keeps other threads waiting for a few milliseconds at most."""


class Tokenizer:
    """A checkpoint's tokenizer; safe to share between threads.

    ``special_tokens`` maps the tokenizer config's names (``bos_token``, …) to their texts.
    """

    def __init__(
        self, backend: tokenizers.Tokenizer, special_tokens: Mapping[str, str] | None = None
    ) -> None:
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self._decoder_config = _decoder_config(backend)
        self._added = {
            id: (token.content, token.special)
            for id, token in backend.get_added_tokens_decoder().items()
        }
        self._pieces: dict[int, str] = {}
        self._stateless = self.new_decoder()
        self.special_tokens: Mapping[str, str] = dict(special_tokens or {})
        self.special_ids = frozenset(id for id, (_, special) in self._added.items() if special)

    @classmethod
    def from_files(cls, files: TokenizerFiles, *, source: str = "the model") -> Tokenizer:
        """Read ``tokenizer.json`` and what the other files say of special tokens.

        Without it, the metadata of a GGUF file serve. ``source`` is the model's name in errors.
        Raises CheckpointError if ``tokenizer.json`` is missing or damaged, or such metadata are;
        other files count as absent when they cannot be read.
        """
        path = files.tokenizer_json
        config = gguf_special_tokens(files.gguf)
        if path is None and files.gguf is not None:
            text = gguf_tokenizer(files.gguf, source)
            return cls.from_text(text, source=f"the tokenizer of {source}", config=config)
        if path is None or not path.is_file():
            raise no_tokenizer(str(path.parent if path else source))
        config |= read_json_object(files.special_tokens_map)
        config.update(read_json_object(files.tokenizer_config))
        return cls.from_text(_read(path), source=str(path), config=config)

    @classmethod
    def from_folder(cls, folder: Path | str) -> Tokenizer:
        """Read the tokenizer of a model folder; errors as `from_files`."""
        return cls.from_files(TokenizerFiles.of(Path(folder)), source=str(folder))

    @classmethod
    def from_text(
        cls, text: str, *, source: str, config: Mapping[str, Any] | None = None
    ) -> Tokenizer:
        """Build from the text of a ``tokenizer.json``; ``source`` names it in errors."""
        try:
            backend = tokenizers.Tokenizer.from_str(text)
        except (
            Exception
        ) as error:  # the library raises plain Exception for whatever it cannot parse
            raise CheckpointError(
                f"{source} is not a tokenizer that can be read: {error}",
                hint="fetch or save it again, with a recent transformers",
            ) from error
        return cls(backend, named_special_tokens(config or {}))

    # -- encoding -----------------------------------------------------------------------------

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Turn text into token ids; raises InvalidRequest for text that is not valid Unicode.

        A long one goes the way of a batch: only there does the library let other threads run.
        """
        if isinstance(text, str) and len(text) > LONG_TEXT:
            return self.encode_batch([text], add_special_tokens)[0]
        try:
            return self._backend.encode(text, add_special_tokens=add_special_tokens).ids
        except (UnicodeEncodeError, TypeError) as error:
            raise _bad_text(text) from error

    def encode_batch(
        self, texts: Sequence[str], add_special_tokens: bool = True
    ) -> list[list[int]]:
        """Encode several texts, each as `encode` would; the library uses its own threads."""
        try:
            rows = self._backend.encode_batch(list(texts), add_special_tokens=add_special_tokens)
        except (UnicodeEncodeError, TypeError) as error:
            raise next(map(_bad_text, filter(_is_bad, texts)), _bad_text("")) from error
        return [row.ids for row in rows]

    # -- decoding -----------------------------------------------------------------------------

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """Turn token ids into text; ids without a token are passed over."""
        detokenizer = Detokenizer(self, skip_special_tokens=skip_special_tokens)
        return detokenizer.push(ids) + detokenizer.flush()

    def new_decoder(self) -> Decoder:
        """A fresh incremental decoder for this tokenizer's pieces (see `Detokenizer`)."""
        return parse_decoder(self._decoder_config, self._decode_pieces)

    def piece(self, id: int) -> str | None:
        """The vocabulary entry of an id, in the vocabulary's alphabet; None if there is none."""
        try:
            return self._pieces[id]
        except KeyError:
            pass
        try:
            piece = self._backend.id_to_token(id)
        except (OverflowError, TypeError) as error:
            raise InvalidRequest(
                f"{id!r} is not a token id", param="ids", hint="ids are integers from 0"
            ) from error
        if piece is not None:  # unknown ids are without end: they must not fill the memory
            self._pieces[id] = piece
        return piece

    def id_to_bytes(self, id: int) -> bytes:
        """What a token stands for inside a text: UTF-8, maybe part of a character, or empty."""
        if id in self._added:
            return self._added[id][0].encode()
        piece = self.piece(id)
        return b"" if piece is None else self._stateless.piece_bytes(piece)

    def _decode_pieces(self, pieces: list[str]) -> str:
        decoder = self._backend.decoder
        return " ".join(pieces) if decoder is None else decoder.decode(pieces)

    # -- vocabulary ---------------------------------------------------------------------------

    def token_to_id(self, token: str) -> int | None:
        """The id of a token given by its text, or None."""
        return self._backend.token_to_id(token)

    @property
    def vocab_size(self) -> int:
        """How many tokens there are, added ones included; a model may have more rows than that."""
        return self._backend.get_vocab_size(with_added_tokens=True)

    @property
    def added_ids(self) -> frozenset[int]:
        """The tokens that were added to the vocabulary: special ones and other markers."""
        return frozenset(self._added)

    @property
    def id_limit(self) -> int:
        """One more than the largest id; some below may have no token."""
        return max(self._backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @property
    def eos_token(self) -> str | None:
        """The text of the end token, if the tokenizer config names one."""
        return self.special_tokens.get("eos_token")

    @property
    def eos_token_id(self) -> int | None:
        """The id of the end token, if the tokenizer config names one."""
        return None if self.eos_token is None else self.token_to_id(self.eos_token)

    @property
    def bos_token_id(self) -> int | None:
        """The id of the start token, if the tokenizer config names one."""
        bos = self.special_tokens.get("bos_token")
        return None if bos is None else self.token_to_id(bos)


def named_special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """Every ``*_token`` of a tokenizer config with its text, as chat templates see them."""
    extra = config.get("extra_special_tokens")
    entries = {**config, **extra} if isinstance(extra, Mapping) else config
    named = {}
    for name, value in entries.items():
        text = value.get("content") if isinstance(value, Mapping) else value
        if name.endswith("_token") and isinstance(text, str):
            named[name] = text
    return named


def _decoder_config(backend: tokenizers.Tokenizer) -> Mapping[str, Any] | None:
    """The ``decoder`` section of a tokenizer; None if it has none."""
    if backend.decoder is None:
        return None
    state: Mapping[str, Any] = json.loads(backend.decoder.__getstate__())
    return state


def read_json_object(path: Path | None) -> dict[str, Any]:
    """The JSON object in a file; an absent or malformed one is empty."""
    if path is None:
        return {}
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def demand_tokenizer(offer: Offer) -> None:
    """Refuse a hub's model that has no tokenizer, before its weights are fetched.

    Of one that is nothing but GGUF the weights' file may have it. Raises CheckpointError.
    """
    if offer.folder is not None and TokenizerFiles.of(offer.folder).tokenizer_json is None:
        raise CheckpointError(
            f"{offer.model!r} has no tokenizer.json",
            hint="choose another model; or fetch its files with `helexa pull`, add the "
            "tokenizer.json of the model it was made from to their folder, and name the folder",
        )


def no_tokenizer(place: str) -> CheckpointError:
    return CheckpointError(
        f"there is no tokenizer.json in {place}",
        hint="add the file, or save it with transformers: "
        "AutoTokenizer.from_pretrained(model).save_pretrained(folder)",
    )


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{path} cannot be read: {error}", hint="fetch the file again"
        ) from error


def _is_bad(text: object) -> bool:
    return not isinstance(text, str) or any("\ud800" <= c <= "\udfff" for c in text)


def _bad_text(text: object) -> InvalidRequest:
    if not isinstance(text, str):
        return InvalidRequest(
            f"text must be a string, not {type(text).__name__}",
            param="prompt",
            hint="pass a string, or token ids",
        )
    at = next((i for i, c in enumerate(text) if "\ud800" <= c <= "\udfff"), 0)
    return InvalidRequest(
        f"the text has half of a surrogate pair at character {at}",
        param="prompt",
        hint="send whole characters (an emoji was probably cut in two)",
    )
