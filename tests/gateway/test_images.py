"""What a picture costs: by its size, its steps, and what the answer says of itself."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helexa.gateway.api.images import image_units, price, size, tokens_for

SIZES: dict[str, tuple[object, tuple[int, int]]] = {
    "none": (None, (1024, 1024)),
    "portrait": ("512x768", (512, 768)),
    "capital": ("2048X1024", (2048, 1024)),
    "spaces": (" 512 x 768 ", (512, 768)),
    "one side": ("1024", (1024, 1024)),
    "words": ("axb", (1024, 1024)),
    "half": ("1024x", (1024, 1024)),
    "three": ("1x2x3", (1024, 1024)),
    "signs": ("-512x512", (1024, 1024)),
    "no ASCII": ("５１２x512", (1024, 1024)),
    "a number": (512, (1024, 1024)),
    "endless": (f"{'9' * 5000}x1", (1024, 1024)),
}


@pytest.mark.parametrize(("text", "expected"), SIZES.values(), ids=SIZES)
def test_g167_image_size(text: object, expected: tuple[int, int]) -> None:
    assert size(text) == expected


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({}, 9438),
        ({"negative_prompt": "blurry"}, 18875),
        ({"negative_prompt": ""}, 9438),
        ({"negative_prompt": ["blurry"]}, 9438),
        ({"size": "512x512", "num_steps": 4}, 1049),
        ({"num_steps": True}, 9438),
        ({"num_steps": -1}, 9438),
        ({"num_steps": "4"}, 9438),
        ({"num_steps": 0}, 0),
        ({"n": 4}, 9438),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_units(body: dict[str, Any], tokens: int) -> None:
    assert tokens_for(image_units(body)) == tokens


TEXTS = st.text("0123456789xX -.", max_size=12)
VALUES = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | st.lists(TEXTS)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(("size", "num_steps", "n"), VALUES)))
def test_any_body_has_a_price(body: dict[str, Any]) -> None:
    assert 0 <= tokens_for(image_units(body)) < 10**22


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        (b'{"usage":{"helexa_image_units":9.437184}}', (9438, 9437)),
        (b'{"usage":{"helexa_image_units" : 2}}', (2000, 2000)),
        (b'{"usage":{"helexa_image_units":0}}', (0, 0)),
        (b'{"helexa_image_units":1,"usage":{"helexa_image_units":2}}', (2000, 2000)),
        (b'{"usage":{"helexa_image_units":null}}', (1500, 1500)),
        (b'{"usage":{"helexa_image_units":-3}}', (1500, 1500)),
        (b'{"usage":{"helexa_image_units":"3"}}', (1500, 1500)),
        (b'{"usage":{}}', (1500, 1500)),
        (b"", (1500, 1500)),
    ],
)
def test_an_answer_says_what_it_cost(tail: bytes, expected: tuple[int, int]) -> None:
    assert price(1.5, tail) == expected
