"""A request for an image: its JSON, and the call that it asks for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from helexa.errors import InvalidRequest
from helexa.protocol.fields import Body, Count, Text
from helexa.refusals import UnsupportedParameter

DEFAULT_SIDE: Final = 1024
_SIZE: Final = re.compile(r"(\d{1,6})[xX](\d{1,6})")
_ONLY: Final = {"n": 1, "response_format": "b64_json", "output_format": "png"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageCall:
    """What an image request asks of a model; sizes in pixels."""

    model: str
    prompt: str
    width: int
    height: int


class ImageRequest(Body):
    """The body of POST /v1/images/generations."""

    model: Text
    prompt: Text
    n: Count | None = None
    size: Text | None = None
    response_format: Text | None = None
    output_format: Text | None = None

    def call(self) -> ImageCall:
        """Check the values and say what is asked for. Raises InvalidRequest."""
        for name, only in _ONLY.items():
            given: Any = getattr(self, name)
            if given not in (None, only):
                raise UnsupportedParameter(
                    f"{name} {given!r:.40} is not supported", param=name, hint=f"use {only}"
                )
        width, height = read_size(self.size)
        return ImageCall(model=self.model, prompt=self.prompt, width=width, height=height)


def read_size(text: str | None) -> tuple[int, int]:
    """Width and height of ``512x768``; the default if there is no text. Raises InvalidRequest."""
    if text is None:
        return DEFAULT_SIDE, DEFAULT_SIDE
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise InvalidRequest(
            "size is not a width and a height",
            param="size",
            code="invalid_size",
            hint='write it as "1024x1024"',
        )
    return int(found[1]), int(found[2])
