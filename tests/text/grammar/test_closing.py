"""An answer whose tokens run out is brought to its end, wherever it dawdles."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from helexa.text.grammar.factory import GrammarFactory
from helexa.text.tokenizer import Tokenizer
from tests.text.grammar.following import ENDS, allowed, started
from tests.text.grammar.test_answers import spec_of


def last_of(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """An object in which more is required after the value that goes on."""
    properties = {name: schema, "then": {"type": "boolean"}, "last": {"type": "integer"}}
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


@pytest.mark.parametrize(
    ("schema", "dawdle"),
    [
        (last_of("long", {"type": "number", "exclusiveMinimum": 0, "maximum": 1}), "0"),
        (last_of("long", {"type": "integer"}), "7"),
        (last_of("long", {"type": "string"}), "a"),
        ({"type": "array", "items": {"type": "number"}, "minItems": 3}, "5"),
    ],
    ids=["fraction", "integer", "text", "items"],
)
def test_a_value_that_goes_on_for_ever_is_ended_in_time(
    factory: GrammarFactory, tiny: Tokenizer, schema: dict[str, Any], dawdle: str
) -> None:
    (habit,) = tiny.encode(dawdle, add_special_tokens=False)
    mask = started(factory, spec_of(schema), max_tokens=120)
    taken: list[int] = []
    while not mask.is_terminated and len(taken) < 120:
        choices = [token_id for token_id in allowed(mask) if token_id not in ENDS]
        token_id = habit if habit in choices else choices[0]
        mask.accept(token_id)
        taken.append(token_id)
    assert mask.is_cut
    jsonschema.validate(json.loads(tiny.decode(taken)), schema)
