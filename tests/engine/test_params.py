"""Sampling parameters: what is refused, how None is filled, what a model may suggest."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import numpy as np
import pytest

from helexa.engine.params import GenerationDefaults, SamplingParams, resolve
from helexa.errors import InvalidRequest

VOCAB = 1000

INVALID = [
    ("top_p text", {"top_p": "x"}, "top_p"),
    ("top_p inf", {"top_p": float("inf")}, "top_p"),
    ("min_p above one", {"min_p": 2}, "min_p"),
    ("penalty zero", {"repetition_penalty": 0}, "repetition_penalty"),
    ("penalty beyond a double", {"repetition_penalty": 10**400}, "repetition_penalty"),
    ("seed negative", {"seed": -1}, "seed"),
    ("seed too large", {"seed": 2**64}, "seed"),
    ("seed fraction", {"seed": 1.5}, "seed"),
    ("17 stops", {"stop": ["a"] * 17}, "stop"),
    ("stop empty", {"stop": ""}, "stop"),
    ("stop long", {"stop": ["a" * 257]}, "stop"),
    ("stop number", {"stop": 3}, "stop"),
    ("stop list of numbers", {"stop": [3]}, "stop"),
    ("stop bytes", {"stop": b"ab"}, "stop"),
    ("max_tokens negative", {"max_tokens": -1}, "max_tokens"),
    ("max_tokens none", {"max_tokens": None}, "max_tokens"),
    ("max_tokens bool", {"max_tokens": True}, "max_tokens"),
    ("temperature nan", {"temperature": float("nan")}, "temperature"),
    ("temperature bool", {"temperature": True}, "temperature"),
    ("top_k fraction", {"top_k": 1.5}, "top_k"),
    ("top_k below -1", {"top_k": -2}, "top_k"),
    ("presence", {"presence_penalty": 2.1}, "presence_penalty"),
    ("frequency", {"frequency_penalty": -2.1}, "frequency_penalty"),
    ("bias value", {"logit_bias": {1: 100.5}}, "logit_bias"),
    ("bias key", {"logit_bias": {"one": 1}}, "logit_bias"),
    ("bias negative key", {"logit_bias": {-1: 1}}, "logit_bias"),
    ("bias list", {"logit_bias": [1]}, "logit_bias"),
    ("stop ids text", {"stop_token_ids": "12"}, "stop_token_ids"),
    ("stop ids one", {"stop_token_ids": 12}, "stop_token_ids"),
    ("stop ids negative", {"stop_token_ids": [-1]}, "stop_token_ids"),
    ("ignore_eos number", {"ignore_eos": 1}, "ignore_eos"),
    ("min_tokens negative", {"min_tokens": -1}, "min_tokens"),
    ("min_tokens above max_tokens", {"min_tokens": 9, "max_tokens": 8}, "min_tokens"),
    ("n zero", {"n": 0}, "n"),
    ("n large", {"n": 129}, "n"),
    ("logprobs large", {"logprobs": 21}, "logprobs"),
    ("logprobs bool", {"logprobs": True}, "logprobs"),
    ("window negative", {"repeat_last_n": -1}, "repeat_last_n"),
]


@pytest.mark.parametrize(
    ("given", "param"), [case[1:] for case in INVALID], ids=[case[0] for case in INVALID]
)
def test_e068_invalid_params_name_the_field(given: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest, match=param) as caught:
        SamplingParams(**given)
    assert caught.value.param == param
    assert isinstance(caught.value, ValueError)


def test_e068_the_message_says_what_would_be_right() -> None:
    with pytest.raises(InvalidRequest) as caught:
        SamplingParams(min_p=2)
    assert str(caught.value) == "min_p must be a number, at most 1, not 2; 0 turns it off"


def test_a_long_wrong_value_is_shortened() -> None:
    with pytest.raises(InvalidRequest) as caught:
        SamplingParams(top_p="x" * 10_000)  # type: ignore[arg-type]  # the point of the test
    assert len(str(caught.value)) < 150


def test_limits_are_valid() -> None:
    SamplingParams(
        max_tokens=0,
        temperature=-1.0,
        top_p=0.0,
        top_k=-1,
        min_p=1.0,
        seed=2**64 - 1,
        repeat_last_n=0,
        presence_penalty=-2,
        frequency_penalty=2,
        logit_bias={0: -100, 1: 100},
        stop=["x" * 256] * 16,
        n=128,
        logprobs=20,
    )


def test_forms_are_unified() -> None:
    params = SamplingParams(
        stop="end",
        logit_bias={"12": 3, np.int64(5): np.float32(0.5)},  # type: ignore[dict-item]  # as JSON has it
        stop_token_ids=np.array([3, 4]),  # type: ignore[arg-type]  # numpy is taken
        top_k=np.int32(7),  # type: ignore[arg-type]  # numpy is taken
        temperature=1,
    )
    assert params.stop == ("end",)
    assert params.logit_bias == {12: 3.0, 5: 0.5}
    assert params.stop_token_ids == (3, 4)
    assert (params.top_k, type(params.top_k)) == (7, int)
    assert (params.temperature, type(params.temperature)) == (1.0, float)


def test_values_are_frozen_hashable_and_travel() -> None:
    params = SamplingParams(logit_bias={1: 2.0}, stop=["a"])
    with pytest.raises(dataclasses.FrozenInstanceError):
        params.seed = 1  # type: ignore[misc]  # the point of the test
    assert hash(params) == hash(SamplingParams(logit_bias={1: 2.0}, stop="a"))
    assert pickle.loads(pickle.dumps(params)) == params


def test_the_callers_bias_is_copied() -> None:
    mine = {1: 1.0}
    params = SamplingParams(logit_bias=mine)
    mine[2] = 500.0
    assert params.logit_bias == {1: 1.0}


def test_override_changes_some_fields_and_checks_them() -> None:
    params = SamplingParams(top_k=5)
    assert params.override(seed=1) == SamplingParams(top_k=5, seed=1)
    with pytest.raises(InvalidRequest):
        params.override(top_p="x")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("temprature", "did you mean 'temperature'?"),
        ("max_new_tokens", "did you mean 'max_tokens'"),
        ("zzzz", "there are max_tokens, temperature, "),
    ],
)
def test_override_helps_with_a_wrong_name(name: str, says: str) -> None:
    with pytest.raises(TypeError, match=f"'{name}' is not a sampling parameter") as caught:
        SamplingParams().override(**{name: 1})
    assert says in str(caught.value)


def test_each_choice_has_a_seed_of_its_own() -> None:
    params = SamplingParams(seed=2**64 - 1, n=128)
    assert params.choice(0) is params
    assert len({params.choice(i).seed for i in range(128)}) == 128
    assert SamplingParams(n=3).choice(2).seed is None


SUGGESTED = '{"temperature": 1.0, "top_p": 0.95, "top_k": 20}'
RESOLUTION = [
    ("silent request", SUGGESTED, {}, (1.0, 0.95, 20)),
    ("request wins", SUGGESTED, {"temperature": 0.2, "top_k": 5}, (0.2, 0.95, 5)),
    ("no file", None, {}, (0.7, 1.0, 0)),
    ("malformed file", "{oops", {}, (0.7, 1.0, 0)),
    ("not an object", "[1]", {}, (0.7, 1.0, 0)),
    (
        "other keys",
        '{"temperature": 0.5, "do_sample": false, "eos_token_id": [1, 2], "x": {}}',
        {},
        (0.5, 1.0, 0),
    ),
    (
        "wrong values are not said",
        '{"temperature": "hot", "top_p": null, "top_k": true}',
        {},
        (0.7, 1.0, 0),
    ),
    ("request switches off", SUGGESTED, {"top_p": 1.0, "top_k": 0}, (1.0, 1.0, 0)),
]


@pytest.mark.parametrize(
    ("text", "asked", "expected"), [case[1:] for case in RESOLUTION], ids=[c[0] for c in RESOLUTION]
)
def test_e061_resolution(
    text: str | None, asked: dict[str, Any], expected: tuple[float, float, int]
) -> None:
    params = resolve(SamplingParams(**asked), GenerationDefaults.from_json(text), VOCAB)
    assert (params.temperature, params.top_p, params.top_k) == expected


def test_e061_the_file_may_suggest_min_p_penalty_and_end_tokens() -> None:
    text = '{"min_p": 0.1, "repetition_penalty": 1.05, "eos_token_id": [7, 3], "repeat_last_n": 9}'
    defaults = GenerationDefaults.from_json(text)
    params = resolve(SamplingParams(), defaults, VOCAB)
    assert (params.min_p, params.repetition_penalty, params.repeat_last_n) == (0.1, 1.05, 64)
    assert defaults.eos_token_ids == (7, 3)


@pytest.mark.parametrize(
    ("value", "ids"), [("5", (5,)), ("[5, 6]", (5, 6)), ("null", ()), ('["x", true, -1]', ())]
)
def test_end_tokens_are_one_or_many(value: str, ids: tuple[int, ...]) -> None:
    assert GenerationDefaults.from_json(f'{{"eos_token_id": {value}}}').eos_token_ids == ids


def test_off_is_spelled_one_way() -> None:
    params = resolve(
        SamplingParams(temperature=-1, top_k=VOCAB, top_p=0.0, min_p=-3),
        GenerationDefaults(),
        VOCAB,
    )
    assert (params.temperature, params.top_k, params.top_p, params.min_p) == (0.0, 0, 1.0, 0.0)
    assert resolve(params, GenerationDefaults(temperature=1.0, top_k=3), VOCAB) == params


def test_e065_without_a_seed_each_request_draws_one() -> None:
    seeds = {resolve(SamplingParams(), GenerationDefaults(), VOCAB).seed for _ in range(20)}
    assert len(seeds) == 20
    assert None not in seeds


@pytest.mark.parametrize(
    "given", [{"logit_bias": {VOCAB: 1.0}}, {"stop_token_ids": [1, VOCAB]}], ids=["bias", "stop"]
)
def test_ids_outside_the_vocabulary_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=f"token id {VOCAB}, the vocabulary ends at 999"):
        resolve(SamplingParams(**given), GenerationDefaults(), VOCAB)
