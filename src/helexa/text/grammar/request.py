"""What a chat request asks of the form of its answer: checked, and made a grammar spec."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Final, Literal

from helexa.engine.masks import GrammarSpec
from helexa.errors import InvalidRequest, UnsupportedGrammar
from helexa.text.grammar.schema import checked
from helexa.text.messages import plain_data

Tools = Sequence[Mapping[str, Any]]
Choice = str | Mapping[str, Any]
CallForm = Literal["json", "tags"]

MAX_TOOLS: Final = 128
_MODES: Final = ("auto", "none", "required")
_FORMATS: Final = ("text", "json_object", "json_schema")
_NO_ARGUMENTS: Final = {"type": "object", "additionalProperties": False}
_ANY_ARGUMENTS: Final = {"type": "object"}


def chosen_tool(choice: object, tools: Tools | None) -> tuple[str, str | None]:
    """``auto``, ``none`` or ``required``, and the tool's name if one is to be called.

    A choice is one of these words, a tool's name, or OpenAI's object. Raises InvalidRequest for
    anything else, a tool that is not offered, and ``required`` without tools.
    """
    name = _named(choice)
    if name is None and choice in ("auto", "none"):
        return str(choice), None
    if not tools:
        raise InvalidRequest(
            f"tool_choice is {choice!r:.80}, and there are no tools",
            param="tool_choice",
            hint="pass tools, or leave tool_choice out",
        )
    offered = [_function(tool, at)["name"] for at, tool in enumerate(tools)]
    if name is not None and name not in offered:
        close = get_close_matches(name, offered, n=1, cutoff=0.5)
        raise InvalidRequest(
            f"tool_choice names {name!r:.80}, which is not among the tools",
            param="tool_choice",
            hint=f"did you mean {close[0]!r}?" if close else "there are " + ", ".join(offered),
        )
    return "required", name


def requested_grammar(
    response_format: object,
    tools: Tools | None,
    choice: Choice,
    *,
    parallel: bool,
    form: CallForm | None,
) -> GrammarSpec | None:
    """The grammar that an answer must fit, None if anything goes.

    ``form`` is how the model writes calls, ``json`` or ``tags``; None if it cannot. Where a format
    is asked for and tools are offered, the model may answer or call. Raises InvalidRequest or
    UnsupportedGrammar.
    """
    mode, name = chosen_tool(choice, tools)
    schema, formatted = _schema(response_format)
    if mode == "required":
        if form is None:
            raise UnsupportedGrammar(
                "this model has no tokens that mark a tool call, so none can be required",
                param="tool_choice",
                hint="use tool_choice='auto'",
            )
        calls = _calls(tools or (), name, many=parallel and name is None, form=form)
        return GrammarSpec("tool_calls", _json(calls))
    if not formatted:
        return None
    if tools and mode == "auto" and form is not None:
        calls = _calls(tools, None, many=parallel, form=form, free=True)
        return GrammarSpec("json_or_tool_calls", _json({"schema": schema, "calls": calls}))
    if schema is None:
        return GrammarSpec("json_object", "")
    return GrammarSpec("json_schema", _json(schema))


# --- response_format ----------------------------------------------------------------------------


def _schema(response_format: object) -> tuple[Any, bool]:
    """The schema that is asked for (None: any object), and whether a format is."""
    if response_format is None:
        return None, False
    kind = response_format.get("type") if isinstance(response_format, Mapping) else None
    if not isinstance(response_format, Mapping) or not isinstance(kind, str):
        raise InvalidRequest(
            f"response_format must be an object with a type, not {response_format!r:.80}",
            param="response_format",
            hint='for example {"type": "json_object"}',
        )
    if kind not in _FORMATS:
        raise UnsupportedGrammar(
            f"response_format has the type {kind!r:.80}",
            param="response_format",
            hint="there are " + ", ".join(_FORMATS),
        )
    if kind != "json_schema":
        return None, kind == "json_object"
    inner = response_format.get("json_schema", response_format)
    schema = inner.get("schema") if isinstance(inner, Mapping) else None
    if schema is None:
        raise InvalidRequest(
            "response_format has no schema",
            param="response_format",
            hint='pass {"type": "json_schema", "json_schema": {"name": …, "schema": {…}}}',
        )
    return checked(_plain(schema, "response_format"), "response_format"), True


# --- tools --------------------------------------------------------------------------------------


def _named(choice: object) -> str | None:
    """The tool that a choice names, None if it is a mode."""
    if isinstance(choice, str):
        return None if choice in _MODES else choice
    if isinstance(choice, Mapping) and choice.get("type") == "function":
        inner = choice.get("function", choice)
        name = inner.get("name") if isinstance(inner, Mapping) else None
        if isinstance(name, str):
            return name
    raise InvalidRequest(
        f"tool_choice must be a mode or name a function, not {choice!r:.80}",
        param="tool_choice",
        hint="use 'auto', 'none', 'required', a tool's name, or "
        '{"type": "function", "function": {"name": …}}',
    )


def _function(tool: object, at: int) -> Mapping[str, Any]:
    """A tool's function, in OpenAI's form or bare."""
    function = tool.get("function", tool) if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise InvalidRequest(
            f"tools[{at}] has no function with a name",
            param="tools",
            hint='each is {"type": "function", "function": {"name": …, "parameters": …}}',
        )
    return function


def _calls(
    tools: Tools, name: str | None, *, many: bool, form: CallForm, free: bool = False
) -> dict[str, Any]:
    """What `call_rules` takes; ``free`` lets the arguments be any object."""
    functions = [_function(tool, at) for at, tool in enumerate(tools)]
    wanted = [f for f in functions if name is None or f["name"] == name]
    if len(wanted) > MAX_TOOLS:
        raise UnsupportedGrammar(
            f"there are {len(wanted)} tools, calls of at most {MAX_TOOLS} can be enforced",
            param="tools",
            hint="offer fewer tools, or name one in tool_choice",
        )
    if free:
        form, listed = "json", [{"name": f["name"], "parameters": _ANY_ARGUMENTS} for f in wanted]
    else:
        listed = [{"name": f["name"], "parameters": _parameters(f)} for f in wanted]
    return {"tools": listed, "many": many, "form": form}


def _parameters(function: Mapping[str, Any]) -> Any:
    given = function.get("parameters")
    if given is None:
        return _NO_ARGUMENTS
    schema = checked(_plain(given, "tools"), "tools")
    if schema is True or not schema:
        return _ANY_ARGUMENTS
    if schema.setdefault("type", "object") != "object":
        raise UnsupportedGrammar(
            f"the parameters of {function['name']!r:.80} are not an object but {schema['type']!r}",
            param="tools",
            hint="wrap them in an object with one property",
        )
    return schema


def _plain(value: Any, param: str) -> Any:
    try:
        return plain_data(value)
    except RecursionError:
        raise UnsupportedGrammar("the schema is nested too deeply", param=param) from None


def _json(value: Any) -> str:
    return json.dumps(value)
