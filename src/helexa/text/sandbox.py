"""The jinja2 environment that chat templates run in: theirs is foreign code, so it is a sandbox.

Rendering equals that of Hugging Face's ``apply_chat_template``; templates are written against it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace


class NullContent(jinja2.Undefined):
    """The content of a message that has none: is none, and prints nothing instead of ``None``.

    Hugging Face drops null fields, so its templates print an undefined value; templates that ask
    whether the content is none must be told so all the same.
    """

    def __eq__(self, other: object) -> bool:
        return other is None or isinstance(other, jinja2.Undefined)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(None)


class _GenerationBlock(Extension):
    """``{% generation %}…{% endgeneration %}``, which marks training targets: the body as it is."""

    tags = {"generation"}  # noqa: RUF012  # jinja2 declares it as an instance attribute

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Callable[[], str]) -> str:
        return caller()


class _PlainNamespace(Namespace):
    """``namespace()`` without underscore names, which could reach Python's own attributes."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # allows namespace(self=…)
        self, *positional = args
        Namespace.__init__(self)
        for name, value in dict(*positional, **kwargs).items():
            self[name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        if str(name).startswith("_"):
            raise jinja2.exceptions.SecurityError(f"namespace attribute {name!r} is not allowed")
        super().__setitem__(name, value)


class _DictType:
    """``dict`` for templates: what it makes, without the type itself."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args, **kwargs)


def build_environment(now: Callable[[], datetime]) -> jinja2.Environment:
    """The environment for chat templates; ``now`` is what ``strftime_now`` reads the time from."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, LoopControlExtension]
    )
    environment.filters["tojson"] = _tojson
    environment.tests["none"] = _is_none
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda format: now().strftime(format)
    environment.globals["dict"] = _DictType()
    environment.globals["namespace"] = _PlainNamespace
    return environment


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
        default=_null_content_as_null,
    )


def _null_content_as_null(value: object) -> None:
    if not isinstance(value, NullContent):
        raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def _is_none(value: object) -> bool:
    return value is None or isinstance(value, NullContent)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)
