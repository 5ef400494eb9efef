"""What a request for an image may say."""

from __future__ import annotations

from typing import Any

import pytest

from helexa.errors import InvalidRequest
from helexa.protocol.envelope import wire_error
from helexa.protocol.fields import parse
from helexa.protocol.openai.images import ImageRequest, read_size


def request(**more: Any) -> ImageRequest:
    return parse(ImageRequest, {"model": "o/n", "prompt": "a cat", **more})


@pytest.mark.parametrize(
    ("more", "code", "param"),
    [
        ({"n": 4}, "unsupported_parameter", "n"),
        ({"n": 4, "size": "huge"}, "unsupported_parameter", "n"),
        ({"output_format": "webp"}, "unsupported_parameter", "output_format"),
        *(({"size": size}, "invalid_size", None) for size in ("huge", "1024", "axb", "1024x")),
    ],
)
def test_n145_image_params(more: dict[str, Any], code: str, param: str | None) -> None:
    with pytest.raises(InvalidRequest) as refused:
        request(**more).call()
    told = wire_error(refused.value)
    assert (told.status, told.code, told.param) == (400, code, param)


def test_n145_urls_are_refused_in_so_many_words() -> None:
    with pytest.raises(InvalidRequest) as refused:
        request(response_format="url").call()
    text = wire_error(refused.value).message
    assert text == "response_format 'url' is not supported; use b64_json"


def test_n145_sizes() -> None:
    assert [read_size(text) for text in (None, "512X768", " 64x32 ")] == [
        *((1024, 1024), (512, 768), (64, 32))
    ]
    call = request(n=1, response_format="b64_json", size="512x768").call()
    assert (call.model, call.width, call.height) == ("o/n", 512, 768)
