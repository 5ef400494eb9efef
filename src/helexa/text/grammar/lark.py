"""From a grammar spec to the text that the library compiles."""

from __future__ import annotations

import json
from typing import Final

from helexa.engine.masks import GrammarSpec
from helexa.errors import UnsupportedGrammar
from helexa.text.grammar.calls import call_rules
from helexa.text.grammar.values import any_object, json_rule
from helexa.text.parsing.markers import Markers

MAX_TEXT_CHARS: Final = 1_000_000
# A model may choose any tokens whose bytes fit, not only those the tokenizer would have chosen.
_HEADER: Final = '%llguidance {"no_forcing": true}\n'


def lark_text(spec: GrammarSpec, markers: Markers) -> str:
    """The grammar of a spec. Raises UnsupportedGrammar for a text that cannot come from here."""
    if len(spec.text) > MAX_TEXT_CHARS:
        raise UnsupportedGrammar(f"the grammar has {len(spec.text)} characters")
    match spec.kind:
        case "json_object":
            return f"{_HEADER}start: {json_rule(any_object())}"
        case "json_schema":
            return f"{_HEADER}start: {json_rule(json.loads(spec.text))}"
        case "tool_calls":
            calls = call_rules(json.loads(spec.text), markers)
            return f"{_HEADER}start: calls\n{calls}"
        case "json_or_tool_calls":
            both = json.loads(spec.text)
            calls = call_rules(both["calls"], markers)
            answer = json_rule(any_object() if both["schema"] is None else both["schema"])
            return f"{_HEADER}start: answer | calls\nanswer: {answer}\n{calls}"
