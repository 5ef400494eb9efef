"""Whatever a model prefers, what it may write fits: random schemas under random tokens."""

from __future__ import annotations

import json
import random

import jsonschema
import pytest

from helexa.engine.masks import GrammarSpec
from helexa.text.grammar.factory import GrammarFactory
from helexa.text.grammar.request import requested_grammar
from helexa.text.tokenizer import Tokenizer
from tests.text.grammar.following import ENDS, allowed, follow, started
from tests.text.grammar.schemas import Schema, random_schema


def spec_of(schema: Schema, *, reasoning: bool = False) -> GrammarSpec:
    asked = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    spec = requested_grammar(asked, None, "auto", parallel=True, form="json")
    assert spec is not None
    return GrammarSpec(spec.kind, spec.text, reasoning)


@pytest.mark.parametrize("hundred", range(2))
def test_E086_random_tokens_fit_random_schemas(
    factory: GrammarFactory, tiny: Tokenizer, hundred: int
) -> None:
    for seed in range(100 * hundred, 100 * (hundred + 1)):
        schema = random_schema(seed)
        mask = started(factory, spec_of(schema))
        text = tiny.decode(follow(mask, random.Random(seed)))
        jsonschema.validate(json.loads(text), schema)


def test_what_a_model_may_write_is_what_fits_and_no_more(
    factory: GrammarFactory, tiny: Tokenizer
) -> None:
    """At most one space after a comma or colon, the end only when complete, nothing after it."""
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    spec = spec_of({**schema, "additionalProperties": False})
    for text, fits in (
        ('{"a":1}', True),
        ('{"a": 12}', True),
        ('{"a":  1}', False),
        (' {"a":1}', False),
        ('{"a":1.5}', False),
        ("{}", False),
    ):
        mask = started(factory, spec)
        taken = []
        for token_id in tiny.encode(text, add_special_tokens=False):
            if token_id not in allowed(mask):
                break
            mask.accept(token_id)
            taken.append(token_id)
            assert not ENDS & set(allowed(mask)) or mask.is_terminated
        assert (mask.is_terminated, tiny.decode(taken) == text) == (fits, fits), text


def test_a_number_alone_may_end_or_go_on(factory: GrammarFactory, tiny: Tokenizer) -> None:
    mask = started(factory, spec_of({"type": "integer", "minimum": 1, "maximum": 500}))
    assert not ENDS & set(allowed(mask))
    mask.accept(tiny.encode("5", add_special_tokens=False)[0])
    assert set(allowed(mask)) >= ENDS
    assert not mask.is_terminated


def test_marker_tokens_are_in_no_string(factory: GrammarFactory, tiny: Tokenizer) -> None:
    mask = started(factory, spec_of({"type": "string"}))
    mask.accept(tiny.encode('"', add_special_tokens=False)[0])
    assert not tiny.added_ids & set(allowed(mask))


def test_an_object_of_any_kind_is_bounded_in_depth(
    factory: GrammarFactory, tiny: Tokenizer
) -> None:
    mask = started(factory, GrammarSpec("json_object", "", reasoning=False))
    for token_id in tiny.encode('{"a":', add_special_tokens=False):
        mask.accept(token_id)
    (bracket,) = tiny.encode("[", add_special_tokens=False)
    depth = 1
    while bracket in allowed(mask):
        mask.accept(bracket)
        depth += 1
    assert depth == 64


@pytest.mark.parametrize("max_tokens", [2, 5, 12, 40, 120, 300])
def test_an_answer_that_runs_out_of_tokens_still_closes(
    factory: GrammarFactory, tiny: Tokenizer, max_tokens: int
) -> None:
    for seed in range(10):
        mask = started(factory, GrammarSpec("json_object", "", False), max_tokens=max_tokens)
        taken = follow(mask, random.Random(seed), max_tokens)
        assert isinstance(json.loads(tiny.decode(taken)), dict)
        assert mask.is_cut or len(taken) < max_tokens


def test_a_schema_closes_with_what_it_requires(factory: GrammarFactory, tiny: Tokenizer) -> None:
    item = {"type": "object", "properties": {"k": {"type": "string", "minLength": 3}}}
    item |= {"required": ["k"], "additionalProperties": False}
    schema = {"type": "array", "items": item, "minItems": 2}
    for seed in range(20):
        mask = started(factory, spec_of(schema), max_tokens=150)
        text = tiny.decode(follow(mask, random.Random(seed), 150))
        jsonschema.validate(json.loads(text), schema)


def test_reading_tokens_again_restores_the_state(factory: GrammarFactory) -> None:
    """Also that of an answer that is about to close."""
    for seed in range(20):
        spec = spec_of(random_schema(seed)) if seed % 2 else GrammarSpec("json_object", "", False)
        whole = follow(started(factory, spec, max_tokens=60), random.Random(seed), 60)
        again, straight = (started(factory, spec, max_tokens=60) for _ in range(2))
        for token_id in whole:
            assert allowed(straight) == allowed(straight)
            straight.accept(token_id)
            again.accept(token_id)
            assert (straight.is_terminated, straight.is_cut) == (again.is_terminated, again.is_cut)
            if not straight.is_terminated:
                assert allowed(straight) == allowed(again)
