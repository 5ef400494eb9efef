"""Placeholders of images in a prompt."""

from __future__ import annotations

import pytest

from helexa.errors import InvalidImage
from helexa.text.images import expand_image_tokens, image_parts

START, PAD, END = 90, 91, 92


@pytest.mark.parametrize(
    ("ids", "lengths", "expanded"),
    [
        ([1, START, PAD, END, 2], [3], [1, START, PAD, PAD, PAD, END, 2]),
        ([PAD, 5, PAD], [2, 3], [PAD, PAD, 5, PAD, PAD, PAD]),
        ([1, 2], [], [1, 2]),
        ([1, PAD], [], [1, PAD]),
    ],
    ids=["one", "two", "none", "a literal placeholder in a text"],
)
def test_e075_placeholders_grow(ids: list[int], lengths: list[int], expanded: list[int]) -> None:
    assert expand_image_tokens(ids, PAD, lengths) == expanded


@pytest.mark.parametrize("ids", [[PAD, PAD], [1], [PAD] * 4])
def test_e075_placeholders_must_match_the_images(ids: list[int]) -> None:
    with pytest.raises(InvalidImage, match="emitted the wrong number"):
        expand_image_tokens(ids, PAD, [2, 2, 2])


def test_parts_that_are_images() -> None:
    url = {"type": "image_url", "image_url": {"url": "data:"}}
    image = {"type": "image", "image": object()}
    text = {"type": "text", "text": "?"}
    messages = [{"content": "x"}, {"content": [url, text]}, {}, {"content": [image]}]

    assert list(image_parts(messages)) == [url, image]
