"""`/tokenize` and `/detokenize`: what a text is to a model; no seat, no accelerator."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import anyio.to_thread

from helexa.chat_options import ChatOptions
from helexa.engine.params import require_in_vocabulary
from helexa.errors import InvalidRequest
from helexa.neuron.api.answering import placed
from helexa.neuron.api.bodies import read_body
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
    body = await read_body(neuron, request, partial(parse, TokenizeRequest))
    neuron.require_engine()
    slot = neuron.serving(body.model)
    thinking = wants_thinking(request.headers.get("x-include-thinking"))

    def count() -> Response:
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
        strings = None
        if body.return_token_strs:
            strings = [model.tokenizer.decode([id], skip_special_tokens=False) for id in ids]
        return ok(tokenized(ids, slot.context_tokens(), strings))

    return await anyio.to_thread.run_sync(placed, slot, count, limiter=neuron.threads.counting)


async def detokenize(neuron: Neuron, request: Request) -> Response:
    """The text of token ids."""
    body = await read_body(neuron, request, partial(parse, DetokenizeRequest))
    neuron.require_engine()
    slot = neuron.serving(body.model)
    info = slot.model.info
    if len(body.tokens) > info.max_context:
        raise InvalidRequest(
            f"{len(body.tokens)} tokens are more than the model's context of {info.max_context}",
            param="tokens",
        )

    def text() -> Response:
        require_in_vocabulary("tokens", body.tokens, info.vocab_size)
        return ok(detokenized(slot.model.tokenizer.decode(body.tokens, skip_special_tokens=False)))

    return await anyio.to_thread.run_sync(text, limiter=neuron.threads.counting)
