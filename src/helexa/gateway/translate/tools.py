"""What the model may call, and whether it must: Anthropic's words for it in OpenAI's."""

from __future__ import annotations

from typing import Any, Final

RUN_BY_THE_SERVER: Final = ("web_search", "web_fetch", "code_execution")
"""Beginnings of the types of tools that Anthropic runs itself; no neuron can."""

_CHOICES: Final = {"auto": "auto", "any": "required", "none": "none"}


def chat_tools(tools: list[Any]) -> list[Any]:
    """Functions; those that are OpenAI's already stay, and what the server would run goes."""
    return [_chat_tool(tool) for tool in tools if not _run_by_the_server(tool)]


def _run_by_the_server(tool: Any) -> bool:
    kind = tool.get("type") if isinstance(tool, dict) else None
    return isinstance(kind, str) and kind.startswith(RUN_BY_THE_SERVER)


def _chat_tool(tool: Any) -> Any:
    if not isinstance(tool, dict) or isinstance(tool.get("function"), dict):
        return tool
    function = {key: tool[key] for key in ("name", "description") if tool.get(key) is not None}
    function["parameters"] = tool.get("input_schema") or {"type": "object"}
    return {"type": "function", "function": function}


def chat_tool_choice(choice: Any) -> Any:
    """The choice in OpenAI's form; what is none of Anthropic's four stays as it is."""
    kind = choice.get("type") if isinstance(choice, dict) else None
    if not isinstance(kind, str):
        return choice
    if kind == "tool" and isinstance(choice.get("name"), str):
        return {"type": "function", "function": {"name": choice["name"]}}
    return _CHOICES.get(kind, choice)


def one_call_only(choice: Any) -> bool:
    """Whether the model may call at most one tool at a time."""
    return isinstance(choice, dict) and choice.get("disable_parallel_tool_use") is True
