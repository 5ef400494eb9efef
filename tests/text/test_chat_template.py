"""Where templates come from, what they may do, and what happens when they fail."""

from __future__ import annotations

import json
import logging
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from helexa.engine.checkpoint.files import TokenizerFiles
from helexa.errors import InvalidRequest, TemplateError
from helexa.text.chat_template import ChatTemplate
from helexa.text.tokenizer import Tokenizer

HI = [{"role": "user", "content": "hi"}]
TOOLS = [{"type": "function", "function": {"name": "f"}}]
CHATML = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def render(source: str, messages: Any = HI, **kwargs: Any) -> str:
    return ChatTemplate({"default": source}).render(messages, **kwargs)


# -- sources --------------------------------------------------------------------------------------


def loaded(
    folder: Path, tokenizer: Tokenizer, files: dict[str, str], **options: Any
) -> ChatTemplate:
    for name, content in files.items():
        (folder / name).write_text(content)
    return ChatTemplate.load(TokenizerFiles.of(folder), tokenizer, **options)


def field(value: Any) -> str:
    return json.dumps({"chat_template": value})


NAMED = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]
SOURCES = {
    "jinja first": (
        {
            "chat_template.jinja": "a",
            "chat_template.json": field("b"),
            "tokenizer_config.json": field("c"),
        },
        "a",
    ),
    "then json": ({"chat_template.json": field("b"), "tokenizer_config.json": field("c")}, "b"),
    "then tokenizer_config": ({"tokenizer_config.json": field("c")}, "c"),
    "list": ({"tokenizer_config.json": field(NAMED)}, "plain"),
    "list without default": (
        {
            "tokenizer_config.json": field(
                [{"name": "x"}, {"name": "y", "template": "y"}, {"name": "z", "template": "z"}]
            )
        },
        "y",
    ),
    "missing": ({}, CHATML),
    "unparsable": ({"chat_template.json": "{broken", "tokenizer_config.json": "[1]"}, CHATML),
    "not a template": ({"tokenizer_config.json": field(3)}, CHATML),
    "blank": ({"chat_template.jinja": " \n", "tokenizer_config.json": field("c")}, "c"),
    "bad syntax": ({"chat_template.jinja": "{% if %}"}, CHATML),
}


@pytest.mark.parametrize(("files", "text"), SOURCES.values(), ids=list(SOURCES))
def test_e069_sources(
    files: dict[str, str], text: str, tmp_path: Path, byte_level: Tokenizer
) -> None:
    assert loaded(tmp_path, byte_level, files).render(HI) == text


def test_e069_a_list_has_a_template_for_tools(tmp_path: Path, byte_level: Tokenizer) -> None:
    template = loaded(tmp_path, byte_level, {"tokenizer_config.json": field(NAMED)})

    assert template.render(HI, tools=TOOLS) == "tools"


def test_e069_an_explicit_template_wins(tmp_path: Path, byte_level: Tokenizer) -> None:
    files = {"chat_template.jinja": "a"}

    assert loaded(tmp_path, byte_level, files, explicit="{{ 'mine' }}").render(HI) == "mine"


def test_an_explicit_template_must_be_one(tmp_path: Path, byte_level: Tokenizer) -> None:
    with pytest.raises(TemplateError, match="line 2") as caught:
        loaded(tmp_path, byte_level, {}, explicit="\n{% if %}")

    assert caught.value.param == "chat_template"


@pytest.mark.parametrize("given", ["chat.jinja", "", 5], ids=["a path", "empty", "no text"])
def test_an_explicit_template_must_be_its_text(
    given: Any, tmp_path: Path, byte_level: Tokenizer
) -> None:
    with pytest.raises(InvalidRequest, match="read_text") as caught:
        loaded(tmp_path, byte_level, {}, explicit=given)

    assert caught.value.param == "chat_template"


def test_undecodable_template_file_counts_as_none(tmp_path: Path, byte_level: Tokenizer) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")

    assert loaded(tmp_path, byte_level, {}).render(HI) == CHATML


@pytest.mark.parametrize("explicit", [None, "{{ 'b' }}"])
def test_e073_templates_can_be_left_out(
    explicit: str | None, tmp_path: Path, byte_level: Tokenizer
) -> None:
    (tmp_path / "chat_template.jinja").write_text("a")
    files = TokenizerFiles.of(tmp_path)

    template = ChatTemplate.load(files, byte_level, explicit=explicit, enabled=False)
    assert template.render(HI) == CHATML


# -- rendering ------------------------------------------------------------------------------------


def test_fallback_chatml() -> None:
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None},
    ]

    assert ChatTemplate({}).render(messages) == (
        "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nab<|im_end|>\n"
        "<|im_start|>assistant\n<|im_end|>\n<|im_start|>assistant\n"
    )
    assert ChatTemplate({}).render(HI, add_generation_prompt=False) == CHATML[:-22]


def test_tools_without_a_template_are_refused_not_dropped() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    with pytest.raises(TemplateError, match="no chat template") as caught:
        ChatTemplate({}).render(HI, tools=[tool])
    assert caught.value.param == "tools"
    assert ChatTemplate({}).render(HI, tools=[]) == CHATML


def test_variables_and_their_order() -> None:
    template = ChatTemplate({"default": "{{ eos_token }}|{{ documents }}|{{ tools }}|{{ x }}"}, {"eos_token": "</s>"})  # fmt: skip  # noqa: E501  # as templates are

    assert template.render(HI) == "</s>|None|None|"
    assert template.render(HI, eos_token="mine", x=1, documents=[]) == "mine|[]|None|1"
    assert template.render(HI, tools=[]) == "</s>|None|None|"


def test_thinking_is_undefined_unless_asked() -> None:
    source = "{{ enable_thinking is defined }}"

    assert render(source) == "False"
    assert render(source, enable_thinking=None) == "True"


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ messages[0].content is none }}", "True"),
        ("{{ messages[0].content == none }}", "True"),
        ("{{ messages[0].content | trim }}", ""),
        ("{{ messages[0] | tojson }}", '{"role": "assistant", "content": null}'),
        ("{% if messages[0].content is not none %}x{% endif %}", ""),
    ],
)
def test_null_content_is_none_and_prints_nothing(source: str, text: str) -> None:
    assert render(source, [{"role": "assistant"}]) == text


def test_the_clock_is_an_argument() -> None:
    template = ChatTemplate({"default": "{{ strftime_now('%Y') }}"}, now=lambda: datetime(1999, 1, 2))  # fmt: skip  # noqa: E501  # as templates are

    assert template.render(HI) == "1999"


# -- failures -------------------------------------------------------------------------------------

FAILING = {
    "raise": "{{ raise_exception('roles must alternate') }}",
    "undefined": "{{ messages[0].no.such }}",
    "type": "{{ 'a' + 1 }}",
    "division": "{{ 1 / 0 }}",
    "recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "syntax": "{% if %}",
    "range": "{{ range(10 ** 9) | list }}",
    "json": "{{ ''.join | tojson }}",
}


@pytest.mark.parametrize("source", FAILING.values(), ids=list(FAILING))
def test_e072_failing_template(source: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert render(source) == CHATML
    assert "ChatML" in caplog.text

    with pytest.raises(TemplateError, match="the chat template failed") as caught:
        render(source, tools=TOOLS)
    assert caught.value.code == "template_render_failed"


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.__init__.__globals__ }}",
        "{{ ''.format_map.__self__.x }}",
        "{{ raise_exception.__globals__.sys }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ namespace(__class__=1) }}",
        "{% set ns = namespace() %}{% set ns.__class__ = dict %}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ messages.append({}) }}",
        "{{ messages[0].update({'role': 'x'}) }}",
        "{{ dict.__class__() }}",
    ],
)
def test_the_sandbox_refuses(source: str) -> None:
    with pytest.raises(TemplateError):
        render(source, tools=TOOLS)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__ }}",
        "{{ ''['__class__'] }}",
        "{{ '' | attr('__class__') }}",
        "{{ '{0.__class__}'.format('') }}",
        "{{ strftime_now.__globals__ }}",
        "{{ dict.__class__ }}",
    ],
)
def test_the_sandbox_hides(source: str) -> None:
    assert render(source, tools=TOOLS) == ""


@pytest.mark.parametrize("tools", ["f", {"name": "f"}, ["f"], [3], 5])
def test_what_is_no_list_of_tools_is_refused(tools: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        render("x", tools=tools)

    assert caught.value.param == "tools"


def test_a_failing_template_is_told_once_and_quotes_no_message(
    caplog: pytest.LogCaptureFixture,
) -> None:
    template = ChatTemplate({"default": "{{ raise_exception('no ' + messages[0].content) }}"})

    with caplog.at_level(logging.WARNING):
        for secret in ("sesame", "mellon"):
            template.render([{"role": "user", "content": secret}])

    (record,) = caplog.records
    assert record.getMessage() == (
        "the chat template failed (TemplateError); ChatML is used for such conversations"
    )


def test_a_failing_template_names_its_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        render("a\n{% if %}")

    assert "(TemplateSyntaxError line 2)" in caplog.text
