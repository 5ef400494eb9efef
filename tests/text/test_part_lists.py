"""Content that is a list of texts reaches the prompt, whatever the model's template takes."""

from __future__ import annotations

from typing import Any

import pytest

from helexa.text.chat_template import ChatTemplate
from tests.text.template_styles import BOTH, STRINGS, USER_PARTS

TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
CALL = {"id": "call00001", "type": "function", "function": {"name": "f", "arguments": {}}}
PARTS = [
    {"type": "text", "text": "first", "cache_control": {"type": "ephemeral"}},
    {"type": "text", "text": "second"},
]


def conversation(content: Any) -> list[dict[str, Any]]:
    return [
        {"role": "system", "content": content},
        {"role": "user", "content": content},
        {"role": "assistant", "content": content, "tool_calls": [CALL]},
        {"role": "tool", "content": content, "tool_call_id": "call00001"},
        {"role": "assistant", "content": content},
        {"role": "user", "content": content},
    ]


@pytest.mark.parametrize("tools", [None, TOOLS], ids=["plain", "tools"])
@pytest.mark.parametrize("style", list(STRINGS))
def test_a_list_of_texts_is_one_text_where_templates_take_strings(
    style: str, tools: list[Any] | None
) -> None:
    template = ChatTemplate({"default": STRINGS[style]})

    shown = template.render(conversation(PARTS), tools=tools)

    assert shown == template.render(conversation("first\nsecond"), tools=tools)
    assert shown.count("first\nsecond") >= 5
    assert "cache_control" not in shown


@pytest.mark.parametrize("style", list(BOTH))
def test_a_template_that_takes_parts_gets_them(style: str) -> None:
    template = ChatTemplate({"default": BOTH[style]})

    assert template.render(conversation(PARTS)) == template.render(conversation("firstsecond"))


def test_each_role_is_tried() -> None:
    shown = ChatTemplate({"default": USER_PARTS}).render(conversation(PARTS))

    assert shown.count("[system]first\nsecond") == 1
    assert shown.count("[user]<first><second>") == 2
    assert shown.count("[tool]first\nsecond") == 1


def test_the_template_for_tools_is_tried_for_itself() -> None:
    sources = {"default": BOTH["loop"], "tool_use": STRINGS["concatenated"]}
    template = ChatTemplate(sources)

    assert "firstsecond" in template.render(conversation(PARTS))
    assert "first\nsecond" in template.render(conversation(PARTS), tools=TOOLS)


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "text", "text": "a"}, {"type": "odd"}],
        [{"type": "text", "text": 5}],
        {"text": "a"},
    ],
    ids=["odd part", "no text", "object"],
)
def test_what_is_not_only_text_stays_as_it_is(content: Any) -> None:
    source = "{% for m in messages %}{{ m.content ~ '' }}{% endfor %}"

    assert ChatTemplate({"default": source}).render([{"role": "user", "content": content}]) == str(
        content
    )


@pytest.mark.parametrize(
    ("content", "text"), [([], ""), (["a", "b"], "a\nb"), ([{"text": "a"}], "a")]
)
def test_lists_that_the_library_takes(content: list[Any], text: str) -> None:
    source = "{% for m in messages %}{{ m.content | trim }}{% endfor %}"

    assert ChatTemplate({"default": source}).render([{"role": "user", "content": content}]) == text


def test_other_roles_go_with_the_user() -> None:
    source = "{% for m in messages %}{{ m.role + ':' + m.content }}{% endfor %}"
    messages = [{"role": "critic", "content": PARTS}]

    assert ChatTemplate({"default": source}).render(messages) == "critic:first\nsecond"


def test_a_role_that_the_trial_cannot_show_goes_with_the_user() -> None:
    source = (
        "{% for m in messages %}{% if m.role == 'tool' and not m.tag %}"
        "{{ raise_exception('tag') }}{% endif %}{{ m.content ~ '' }}{% endfor %}"
    )
    messages = [{"role": "user", "content": "a"}, {"role": "tool", "tag": 1, "content": PARTS}]

    assert ChatTemplate({"default": source}).render(messages) == "afirst\nsecond"
