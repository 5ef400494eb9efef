"""Rendering, byte for byte as ``transformers`` does it.

It hands lists of parts to every template; those that take strings only are shown one text instead.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

import helexa
from helexa.engine.checkpoint.files import TokenizerFiles
from helexa.text.chat_template import ChatTemplate
from helexa.text.tokenizer import Tokenizer
from tests.text import builders

HERE = Path(__file__).parent / "templates"
BUILTIN = Path(helexa.__file__).parent / "builtin"
SPECIAL = {"bos_token": "<|begin|>", "eos_token": builders.END, "pad_token": "<pad>"}
TEMPLATES = {
    **{path.stem: path for path in sorted(HERE.glob("*.jinja"))},
    **{path.parent.name: path for path in sorted(BUILTIN.glob("*/chat_template.jinja"))},
}

TEXT_ONLY = {"headers"}

SEARCH = {
    "type": "function",
    "function": {
        "name": "search",
        "description": 'Hledá "<věci>" & víc 🙂 – 100 % \\u00e9',
        "parameters": {
            "type": "object",
            "properties": {
                "query": {"type": "string", "description": "co hledat"},
                "limit": {"type": ["integer", "null"], "default": None, "minimum": 1.5},
            },
            "required": ["query"],
        },
    },
}
ARGUMENTS = {"query": "kůň & <b>", "limit": 3, "exact": True, "none": None, "tags": ["a", {"b": 1}]}
CALL = {"id": "call_1", "type": "function", "function": {"name": "search", "arguments": ARGUMENTS}}


def one_text(message: dict[str, Any]) -> dict[str, Any]:
    """A message as a template that takes strings only is shown it."""
    content = message.get("content")
    if not isinstance(content, list) or any(part.get("type") != "text" for part in content):
        return message
    return {**message, "content": "\n".join(part["text"] for part in content)}


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


SYSTEM = {"role": "system", "content": "  Be brief.\n"}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": '{"found": "🐴"}'}
CONVERSATIONS = {
    "user": [user("Hello")],
    "system": [SYSTEM, user("Hello")],
    "two systems": [SYSTEM, user("a"), assistant("b"), SYSTEM, user("c")],
    "unicode": [user("你好 🙂 \u2028 <|im_end|> & \"quoted\" 'single' \\ \t")],
    "multi turn": [user("a"), assistant("b"), user("c"), assistant("d\n\n"), user("e")],
    "parts": [user([{"type": "text", "text": "what "}, {"type": "text", "text": "is this?"}])],
    "image": [user([{"type": "image_url", "image_url": {"url": "x"}}, {"text": "?"}])],
    "thinking": [user("a"), assistant("b", reasoning_content="hm\n"), user("c")],
    "thinking by its old name": [user("a"), assistant("b", reasoning="hm")],
    "thinking in the content": [user("a"), assistant("<think>\nhm\n</think>\n\nb")],
    "call": [user("a"), assistant("Let me see.", tool_calls=[CALL]), RESULT],
    "call with null content": [user("a"), assistant(None, tool_calls=[CALL]), RESULT],
    "call without content": [user("a"), {"role": "assistant", "tool_calls": [CALL]}, RESULT],
    "two calls": [user("a"), assistant("", tool_calls=[CALL, CALL]), RESULT, RESULT, user("b")],
    "null content": [user("a"), assistant(None), user("b")],
    "null fields": [user("a"), assistant("b", tool_calls=None, name=None), user("c")],
    "empty content": [user(""), assistant(""), user(" ")],
    "unknown keys": [{**user("a"), "name": "Ada", "cache": {"x": 1}}],
}
KWARGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "thinking on": {"enable_thinking": True},
    "thinking off": {"enable_thinking": False},
    "named date": {"date_string": "1 Jan 2000", "knowledge_cutoff": "May"},
    "overridden": {"bos_token": "<mine>"},
    "no prompt": {"add_generation_prompt": False},
}


@pytest.fixture(scope="module")
def hugging_face() -> Any:
    """A tokenizer of transformers with the same special tokens."""
    return PreTrainedTokenizerFast(tokenizer_object=builders.train_byte_level(), **SPECIAL)


@pytest.mark.parametrize("messages", CONVERSATIONS.values(), ids=list(CONVERSATIONS))
@pytest.mark.parametrize("name", list(TEMPLATES))
def test_e070_rendering_equals_transformers(name: str, messages: Any, hugging_face: Any) -> None:
    source = TEMPLATES[name].read_text("utf-8")
    template = ChatTemplate({"default": source}, SPECIAL)
    theirs = list(map(one_text, messages)) if name in TEXT_ONLY else messages

    for tools, (label, kwargs) in product([None, [SEARCH], [SEARCH, SEARCH]], KWARGS.items()):
        options = {"add_generation_prompt": True, **kwargs}
        expected = hugging_face.apply_chat_template(
            theirs, tools=tools, chat_template=source, tokenize=False, **options
        )
        assert template.render(messages, tools=tools, **options) == expected, label


def test_e070_the_matrix_has_every_template() -> None:
    builtin = [path.name for path in BUILTIN.iterdir() if path.is_dir() and path.name[0] != "_"]

    assert {"headers", "xml_tools", *builtin} <= set(TEMPLATES)


@pytest.mark.parametrize("model", [p.parent for p in BUILTIN.glob("*/tokenizer.json")], ids=str)
def test_a_builtin_model_renders_and_encodes_its_own_template(model: Path) -> None:
    files = TokenizerFiles.of(model)
    tokenizer = Tokenizer.from_files(files)
    template = ChatTemplate.load(files, tokenizer)

    text = template.render([user("hi")], tools=[SEARCH])

    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
