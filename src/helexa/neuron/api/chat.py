"""`/v1/chat/completions`, `/v1/completions` and `/v1/responses`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeVar

from helexa.chat_options import ChatOptions
from helexa.engine.params import SamplingParams, require_in_vocabulary
from helexa.neuron.api.answering import answer, now, slot_for
from helexa.neuron.api.bodies import aside, read_body
from helexa.neuron.story import story_of
from helexa.protocol.fields import parse
from helexa.protocol.ids import chat_id, completion_id, message_id, response_id
from helexa.protocol.openai.chat import ChatCall, ChatRequest, wants_thinking
from helexa.protocol.openai.chat_answer import ChatAnswer
from helexa.protocol.openai.completion_answer import CompletionAnswer
from helexa.protocol.openai.completions import CompletionCall, CompletionRequest
from helexa.protocol.openai.projection import Head
from helexa.protocol.openai.response_answer import ResponseAnswer
from helexa.protocol.openai.responses import ResponseRequest

if TYPE_CHECKING:
    from helexa.http import Request, Response
    from helexa.loaded import Job
    from helexa.neuron.app import Neuron
    from helexa.neuron.slots import Slot


Asked = TypeVar("Asked", ChatRequest, CompletionRequest, ResponseRequest)


async def asked(neuron: Neuron, request: Request, kind: type[Asked]) -> Asked:
    """The body of a request, noted for the log. Raises as `parse`, or NoHarness."""
    body = await read_body(neuron, request, partial(parse, kind))
    story_of(request).asks(body.model, stream=bool(body.stream))
    neuron.require_engine()
    return body


async def chat(neuron: Neuron, request: Request) -> Response:
    """A conversation is answered."""
    body = await asked(neuron, request, ChatRequest)
    shown = wants_thinking(request.headers.get("x-include-thinking"))
    call = await aside(neuron, request, partial(body.call, include_thinking=shown))
    slot = slot_for(neuron, request, call.model)
    projection = ChatAnswer(
        Head(chat_id(), call.model, now()),
        logprobs=call.logprobs,
        include_thinking=call.include_thinking,
        markers=slot.model.info.reasoning_markers,
    )
    job = partial(prepared, slot, call)
    return await answer(neuron, request, slot, job, projection, stream=call.stream)


async def responses(neuron: Neuron, request: Request) -> Response:
    """The same in the terms of the responses API."""
    body = await asked(neuron, request, ResponseRequest)
    call = await aside(neuron, request, body.call)
    slot = slot_for(neuron, request, call.model)
    projection = ResponseAnswer(
        Head(response_id(), call.model, now()), message_id=message_id(), echo=body.echo()
    )
    job = partial(prepared, slot, call)
    return await answer(neuron, request, slot, job, projection, stream=call.stream)


async def completions(neuron: Neuron, request: Request) -> Response:
    """A text is continued."""
    body = await asked(neuron, request, CompletionRequest)
    call = await aside(neuron, request, body.call)
    slot = slot_for(neuron, request, call.model)
    projection = CompletionAnswer(Head(completion_id(), call.model, now()), logprobs=call.logprobs)
    job = partial(continued, slot, call)
    return await answer(neuron, request, slot, job, projection, stream=call.stream)


def continued(slot: Slot, call: CompletionCall) -> Job:
    """The prompt and the parameters of a plain text."""
    params = SamplingParams(**call.sampling)
    return known(slot, slot.model.text_job(call.prompt, params, call.response_format))


def prepared(slot: Slot, call: ChatCall) -> Job:
    """The prompt and the parameters of a conversation."""
    named = {"type": "function", "function": {"name": call.tool_name}}
    thinking = call.template_kwargs.get("enable_thinking")
    options = ChatOptions(
        tools=call.tools,
        tool_choice=call.tool_choice if call.tool_name is None else named,
        response_format=call.response_format,
        enable_thinking=thinking if isinstance(thinking, bool) else None,
        template_kwargs=call.template_kwargs,
        parallel_tool_calls=call.parallel_tool_calls,
    )
    params = SamplingParams(**call.sampling)
    return known(slot, slot.model.chat_job(call.messages, params, options))


def known(slot: Slot, job: Job) -> Job:
    """The job, if it names only tokens that there are: the engine would say so after the head."""
    size = slot.model.info.vocab_size
    require_in_vocabulary("prompt", job.prompt_ids, size)
    require_in_vocabulary("logit_bias", job.params.logit_bias, size)
    require_in_vocabulary("stop_token_ids", job.params.stop_token_ids, size)
    return job
