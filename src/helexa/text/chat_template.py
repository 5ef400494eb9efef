"""A conversation as the one text that its model was trained to continue."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import jinja2

from helexa.engine.checkpoint.files import TokenizerFiles
from helexa.errors import InvalidRequest, TemplateError
from helexa.text.messages import content_text, has_name, normalise_messages, plain_data
from helexa.text.part_lists import joined_texts, text_roles
from helexa.text.sandbox import build_environment
from helexa.text.tokenizer import Tokenizer, read_json_object

logger = logging.getLogger(__name__)

PROBE_TOOL: Final = {
    "type": "function",
    "function": {"name": "f", "description": "", "parameters": {"type": "object"}},
}


class ChatTemplate:
    """A model's chat template, or ChatML where it has none; safe to share between threads.

    ``sources`` maps template names to jinja2 text: ``default``, and maybe ``tool_use``. Templates
    are tried at once: those that show strings only get lists of texts as one text.
    """

    def __init__(
        self,
        sources: Mapping[str, str],
        special_tokens: Mapping[str, str] | None = None,
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        self.sources: Mapping[str, str] = dict(sources)
        self._special_tokens = dict(special_tokens or {})
        self._environment = build_environment(now)
        self._compiled: dict[str, jinja2.Template] = {}
        self._told = False
        self._text_roles = {tools: self._probe(tools) for tools in (False, True)}

    @classmethod
    def load(
        cls,
        files: TokenizerFiles,
        tokenizer: Tokenizer,
        *,
        explicit: str | None = None,
        enabled: bool = True,
    ) -> ChatTemplate:
        """Take the template of a model folder, or the ``explicit`` one, which wins.

        Without ``enabled`` it is ChatML in any case. Raises InvalidRequest if the explicit
        template is not a template's text, TemplateError if it is not jinja2; a model's own fails
        when it is used.
        """
        if explicit is None:
            return cls(find_sources(files) if enabled else {}, tokenizer.special_tokens)
        check_template(explicit)
        template = cls({"default": explicit} if enabled else {}, tokenizer.special_tokens)
        try:
            template._environment.parse(explicit)
        except jinja2.TemplateError as error:
            raise _refused(error, "chat_template", "mend the template that was passed") from error
        return template

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        /,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **kwargs: Any,
    ) -> str:
        """Render a conversation; ``kwargs`` are template variables and override all others.

        The text holds its special tokens, so encode it without adding any. Raises TemplateError if
        there is no template for tools, or it fails with them (without tools, ChatML is used
        instead), InvalidRequest for bad messages.
        """
        chat = normalise_messages(messages)
        source = self._choose(bool(tools))
        if source is None:
            if tools:
                raise TemplateError(
                    "there is no chat template to show tools with",
                    param="tools",
                    hint="send no tools, or pass a chat_template when loading the model",
                )
            return render_chatml(chat, add_generation_prompt)
        shown = joined_texts(chat, self._text_roles[bool(tools)])
        given = {"add_generation_prompt": add_generation_prompt, **plain_data(kwargs)}
        offered = _checked_tools(tools)
        try:
            return self._run(source, shown, offered, given)
        except Exception as error:  # a template is a program: whatever it raises is its failure
            if offered:
                raise _refused(error, "messages", "send other messages, or no tools") from error
            self._tell_once(error)
            return render_chatml(chat, add_generation_prompt)

    @property
    def shows_tags(self) -> bool:
        """Whether tool calls are written as ``<function=…><parameter=…>``, not as JSON."""
        source = self._choose(True) or ""
        return "<function=" in source and "<parameter=" in source

    def _choose(self, with_tools: bool) -> str | None:
        names = ["tool_use"] if with_tools else []
        names += ["default", *self.sources]
        return next((self.sources[name] for name in names if name in self.sources), None)

    def _tell_once(self, error: Exception) -> None:
        """Warn of the first failure; what the template said is left out, it may quote messages."""
        if not self._told:
            self._told = True
            logger.warning(
                "the chat template failed (%s); ChatML is used for such conversations",
                " ".join([type(error).__name__, _line(error)]).strip(),
            )

    def _probe(self, with_tools: bool) -> frozenset[str]:
        source = self._choose(with_tools)
        if source is None:
            return frozenset()
        tools = [PROBE_TOOL] if with_tools else None
        return text_roles(lambda messages: self._run(source, messages, tools, {}))

    def _run(
        self,
        source: str,
        messages: Sequence[Mapping[str, Any]],
        tools: list[Any] | None,
        given: Mapping[str, Any],
    ) -> str:
        variables = {
            "messages": messages,
            "tools": tools,
            "documents": None,
            "add_generation_prompt": True,
            **self._special_tokens,
            **given,
        }
        return self._compile(source).render(variables)

    def _compile(self, source: str) -> jinja2.Template:
        if source not in self._compiled:
            self._compiled[source] = self._environment.from_string(source)
        return self._compiled[source]


def check_template(given: object) -> None:
    """Raise InvalidRequest for what cannot be the text of a template, such as a path to one."""
    if not isinstance(given, str):
        raise InvalidRequest(
            f"chat_template must be the text of a template, not {type(given).__name__}",
            param="chat_template",
            hint="read a file with Path(...).read_text()",
        )
    if "{" not in given:
        raise InvalidRequest(
            f"chat_template {given!r:.80} is not a template: it would show no message",
            param="chat_template",
            hint="pass the template's text; read a file with Path(...).read_text()",
        )


def find_sources(files: TokenizerFiles) -> dict[str, str]:
    """The templates of a model: the first of a folder's three places that has one.

    Else those of a GGUF file's metadata, or none.
    """
    if files.chat_template is not None:
        try:
            text = files.chat_template.read_text("utf-8")
        except (OSError, UnicodeDecodeError):
            text = ""
        if text.strip():
            return {"default": text}
    for path in (files.chat_template_json, files.tokenizer_config):
        sources = named_sources(read_json_object(path).get("chat_template"))
        if sources:
            return sources
    return gguf_sources(files.gguf or {})


def gguf_sources(metadata: Mapping[str, Any]) -> dict[str, str]:
    """The templates in the metadata of a GGUF file: the default one, and others by their names."""
    start = "tokenizer.chat_template"
    found = {
        "default" if name == start else name.removeprefix(f"{start}."): text
        for name, text in metadata.items()
        if name == start or name.startswith(f"{start}.")
    }
    return {name: text for name, text in found.items() if isinstance(text, str) and text.strip()}


def named_sources(value: object) -> dict[str, str]:
    """Read a ``chat_template`` field: one text, or a list of ``{name, template}``."""
    if isinstance(value, str):
        return {"default": value} if value.strip() else {}
    entries = value if isinstance(value, list) else []
    return {
        str(entry.get("name")): entry["template"]
        for entry in entries
        if isinstance(entry, dict) and isinstance(entry.get("template"), str)
    }


def render_chatml(messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True) -> str:
    """The fallback format: every message between ``<|im_start|>`` and ``<|im_end|>``."""
    turns = [
        f"<|im_start|>{message['role']}\n{content_text(message.get('content'))}<|im_end|>\n"
        for message in messages
    ]
    if add_generation_prompt:
        turns.append("<|im_start|>assistant\n")
    return "".join(turns)


def _checked_tools(tools: Sequence[Mapping[str, Any]] | None) -> list[Any] | None:
    if not tools:
        return None
    listed = isinstance(tools, Sequence) and not isinstance(tools, str | bytes)
    if not listed or not all(isinstance(tool, Mapping) for tool in tools):
        raise InvalidRequest(
            "tools must be a list of objects",
            param="tools",
            hint='each is {"type": "function", "function": {"name": …, "parameters": …}}',
        )
    plain = [plain_data(tool) for tool in tools]
    for at, tool in enumerate(plain):
        if not has_name(tool):
            raise InvalidRequest(
                f"tools[{at}] has no function with a name: {tool!r:.80}",
                param="tools",
                hint='each is {"type": "function", "function": {"name": …, "parameters": …}}',
            )
    return plain


def _refused(error: Exception, param: str, hint: str) -> TemplateError:
    where = f" ({line})" if (line := _line(error)) else ""
    return TemplateError(f"the chat template failed{where}: {error}", param=param, hint=hint)


def _line(error: Exception) -> str:
    """The line of a template that jinja2 could not read, empty for other errors."""
    line = getattr(error, "lineno", None)
    return f"line {line}" if line else ""
