"""`/tokenize` and `/detokenize`: what a text is to a model; no seat, no accelerator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio.to_thread

from helexa.chat_options import ChatOptions
from helexa.errors import InvalidRequest
from helexa.neuron.api.answering import placed
from helexa.neuron.api.control import ok
from helexa.protocol.fields import parse
from helexa.protocol.openai.chat import wants_thinking
from helexa.protocol.openai.tokenize import (
    DetokenizeRequest,
    TokenizeRequest,
    detokenized,
    tokenized,
)

if TYPE_CHECKING:
    from helexa.http import Request, Response
    from helexa.neuron.app import Neuron


async def tokenize(neuron: Neuron, request: Request) -> Response:
    """The token ids of a text, or of a conversation as chat would send it."""
    body = parse(TokenizeRequest, await request.json())
    neuron.require_engine()
    slot = neuron.serving(body.model)
    thinking = wants_thinking(request.headers.get("x-include-thinking"))

    def count() -> dict[str, Any]:
        model = slot.model
        messages = body.chat()
        if messages is None:
            ids = model.tokenizer.encode(
                body.prompt or "", add_special_tokens=body.add_special_tokens
            )
        else:
            options = ChatOptions(
                tools=body.offered(),
                template_kwargs=body.template_kwargs(include_thinking=thinking),
            )
            text = model.render(messages, options)
            ids = model.tokenizer.encode(text, add_special_tokens=False)
        strings = [model.tokenizer.decode([id], skip_special_tokens=False) for id in ids]
        return tokenized(ids, slot.context_tokens(), strings if body.return_token_strs else None)

    return ok(await anyio.to_thread.run_sync(placed, slot, count))


async def detokenize(neuron: Neuron, request: Request) -> Response:
    """The text of token ids."""
    body = parse(DetokenizeRequest, await request.json())
    neuron.require_engine()
    slot = neuron.serving(body.model)
    size = slot.model.info.vocab_size
    for id in body.tokens:
        if not 0 <= id < size:
            raise InvalidRequest(
                f"there is no token {id}, the vocabulary has {size}", param="tokens"
            )
    text = slot.model.tokenizer.decode(body.tokens, skip_special_tokens=False)
    return ok(detokenized(text))
