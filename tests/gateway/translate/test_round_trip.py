"""There and back: nothing is lost that both dialects can say; `docs/translation.md` lists the rest.

`conversations` says what is plain, and so must come back unchanged. What is not comes back in that
form: translated once more, it says the same.
"""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings

from helexa.gateway.translate.answer import translate_answer
from helexa.gateway.translate.request import translate_request
from helexa.protocol.fields import parse
from helexa.protocol.openai.chat import ChatRequest
from tests.gateway.translate.conversations import free_requests, messages, plain_requests
from tests.gateway.translate.reverse import anthropic_request, chat_completion

quick = settings(max_examples=100, deadline=None)


@quick
@given(plain_requests)
def test_a_plain_request_comes_back_as_it_was(body: dict[str, Any]) -> None:
    chat = json.loads(translate_request(body).encode(body["model"]))
    assert anthropic_request(chat) == body


@quick
@given(free_requests)
def test_what_is_lost_is_lost_the_first_time(body: dict[str, Any]) -> None:
    chat = translate_request(body).body
    assert translate_request(anthropic_request(chat)).body == chat


@quick
@given(free_requests)
def test_every_request_is_one_that_a_neuron_reads(body: dict[str, Any]) -> None:
    chat = translate_request(body).body
    read = parse(ChatRequest, chat)
    assert [message.plain() for message in read.messages] == chat["messages"]
    assert read.stream_options == chat.get("stream_options")


@quick
@given(messages)
def test_a_message_comes_back_as_it_was(message: dict[str, Any]) -> None:
    data = json.dumps(chat_completion(message)).encode()
    assert json.loads(translate_answer(data, thinking=True)) == message
