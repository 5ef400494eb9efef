"""Images in a conversation, as far as text is concerned: their parts, and the room for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from helexa.errors import InvalidImage

IMAGE_PARTS = ("image_url", "image")


def image_parts(messages: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """The image parts of a conversation, in order; a request has images if there is one."""
    for message in messages:
        content = message.get("content")
        for part in content if isinstance(content, list | tuple) else ():
            if isinstance(part, Mapping) and part.get("type") in IMAGE_PARTS:
                yield part


def expand_image_tokens(
    ids: Sequence[int], image_token_id: int, image_tokens: Sequence[int]
) -> list[int]:
    """Repeat each image's placeholder as often as the image has tokens.

    ``image_tokens`` are the images' lengths in tokens; without images the ids stay as they are.
    Raises InvalidImage if the prompt does not have one placeholder per image.
    """
    if not image_tokens:
        return list(ids)
    placeholders = ids.count(image_token_id)
    if placeholders != len(image_tokens):
        raise InvalidImage(
            "the chat template emitted the wrong number of image placeholders: "
            f"{placeholders} for {len(image_tokens)} images",
            param="messages",
            hint="use the model's own template, and keep its image tokens out of the text",
        )
    lengths = iter(image_tokens)
    return [
        token_id
        for token_id in ids
        for _ in range(next(lengths) if token_id == image_token_id else 1)
    ]
