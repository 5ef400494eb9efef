"""Small tokenizers of the two usual kinds, trained on the spot, and ways to feed them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import tokenizers
from hypothesis import settings
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors, trainers

from helexa.text.events import Event, Reasoning, Text, ToolCall
from helexa.text.parsing.markers import Markers, probe_markers
from helexa.text.parsing.parser import OutputParser
from helexa.text.tokenizer import Tokenizer

CORPUS = [
    "Hello world! Let me check the weather in Brno, and then I am done. Hello again, world.",
    "Příliš žluťoučký kůň úpěl ďábelské ódy. 你好，世界。 مرحبا",
    '{"name": "weather", "arguments": {"city": "Brno", "days": 3, "metric": true}}',
    "<function=weather><parameter=city>Brno</parameter></function>",
]
MARKERS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
END = "<|im_end|>"
LLAMA3 = ["<|begin_of_text|>", "<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"]

quick = settings(max_examples=30, deadline=None)
"""For each property: enough examples to find a fault, few enough for a slow machine."""


def train_byte_level(*, added: Sequence[str] = MARKERS) -> tokenizers.Tokenizer:
    """GPT-2 style: any text is a sequence of byte pieces."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=360, initial_alphabet=alphabet, special_tokens=[END], show_progress=False
    )
    backend.train_from_iterator(CORPUS * 3, trainer)
    backend.add_tokens([AddedToken(text, special=False, normalized=False) for text in added])
    return backend


def train_llama3() -> dict[str, Any]:
    """A tokenizer.json as those of Llama 3 are, with a text put before and nothing after."""
    cut = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    backend = tokenizers.Tokenizer(models.BPE(ignore_merges=True))
    split = pre_tokenizers.Split(tokenizers.Regex(cut), "isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=480, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator([*CORPUS * 3, "2024 12345 1999 2024 123"], trainer)
    backend.add_special_tokens(LLAMA3)
    bos = LLAMA3[0]
    template = processors.TemplateProcessing(
        single=f"{bos} $A",
        pair=f"{bos} $A {bos} $B:1",
        special_tokens=[(bos, backend.token_to_id(bos))],
    )
    moved = processors.ByteLevel(trim_offsets=False)
    backend.post_processor = processors.Sequence([moved, template])
    found: dict[str, Any] = json.loads(backend.to_str())
    return found


def train_byte_fallback(
    decoder: Any = None, *, prepend_scheme: str = "always"
) -> tokenizers.Tokenizer:
    """SentencePiece style: marks for spaces, byte pieces for characters outside the vocabulary."""
    backend = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend_scheme)
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False
    )
    backend.train_from_iterator([line for line in CORPUS if line.isascii()] * 3, trainer)
    backend = _with_byte_pieces(backend)
    backend.decoder = llama_decoder() if decoder is None else decoder
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", backend.token_to_id("<s>"))]
    )
    return backend


def _with_byte_pieces(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    state = json.loads(backend.to_str())
    vocab = state["model"]["vocab"]
    for byte in range(256):
        vocab[f"<0x{byte:02X}>"] = len(vocab)
    return tokenizers.Tokenizer.from_str(json.dumps(state))


def llama_decoder() -> Any:
    """Marks to spaces, byte pieces to characters, and the leading space off."""
    return decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )


class Conversation:
    """An output as tests see it: everything a parser gave, added up."""

    def __init__(self, events: Iterable[Event]) -> None:
        self.events = list(events)
        self.text = "".join(e.text for e in self.events if isinstance(e, Text))
        self.reasoning = "".join(e.text for e in self.events if isinstance(e, Reasoning))
        self.calls = [e for e in self.events if isinstance(e, ToolCall)]
        self.logprobs = [p for e in self.events if isinstance(e, Text) for p in e.logprobs]

    @property
    def summary(self) -> tuple[str, str, list[tuple[int, str, str]]]:
        """What must not depend on how the output was cut into tokens."""
        return self.text, self.reasoning, [(c.index, c.name, c.arguments) for c in self.calls]


def feed(parser: OutputParser, ids: Iterable[int]) -> Conversation:
    """Push tokens, then finish."""
    events = [event for id in ids for event in parser.push(id)]
    return Conversation([*events, *parser.finish()])


def read(
    tokenizer: Tokenizer,
    output: str | Sequence[int],
    *,
    prompt: str = "",
    markers: Markers | None = None,
    **options: Any,
) -> Conversation:
    """Parse a whole output given as text or ids."""
    parser = OutputParser(
        tokenizer,
        probe_markers(tokenizer) if markers is None else markers,
        prompt_ids=tokenizer.encode(prompt, add_special_tokens=False),
        **options,
    )
    ids = tokenizer.encode(output, add_special_tokens=False) if isinstance(output, str) else output
    return feed(parser, ids)


def function_tool(name: str, **properties: Mapping[str, Any]) -> dict[str, Any]:
    """A tool as OpenAI writes it."""
    parameters = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}
