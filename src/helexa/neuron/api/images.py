"""`/v1/images/generations`: checked and refused, as no model here makes images."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from helexa.neuron.api.answering import slot_for
from helexa.neuron.api.bodies import read_body
from helexa.neuron.story import story_of
from helexa.protocol.fields import parse
from helexa.protocol.openai.images import ImageRequest
from helexa.refusals import NotBuilt, WrongModality

if TYPE_CHECKING:
    from helexa.http import Request, Response
    from helexa.neuron.app import Neuron

IMAGE = "image"


async def generate(neuron: Neuron, request: Request) -> Response:
    """An image is refused with what is wrong first: the request, the model, this daemon."""
    body = await read_body(neuron, request, partial(parse, ImageRequest))
    story_of(request).asks(body.model, stream=False)
    neuron.require_engine()
    call = body.call()
    slot = slot_for(neuron, request, call.model)
    if IMAGE not in slot.model.info.capabilities:
        raise WrongModality(
            slot.id, f"model '{slot.id}' makes text, not images", suggestion="use a chat route"
        )
    raise NotBuilt("image generation is not built into this server")
