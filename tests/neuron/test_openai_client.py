"""Chat and plain completions through the official client, against a real model."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import httpx
import pytest
from openai import AsyncOpenAI, NotFoundError, OpenAI
from openai.types.chat import ChatCompletionChunk

from tests.neuron.daemons import TINY, Daemon

HELLO: Any = [{"role": "user", "content": "Hello!"}]
SUM: Any = [{"role": "user", "content": "What is 12 + 7?"}]
PLAIN: Any = {"model": TINY, "messages": HELLO, "temperature": 0, "max_tokens": 12}
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")


def text_of(chunks: list[ChatCompletionChunk], name: str = "content") -> str:
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    return "".join(getattr(delta, name, None) or "" for delta in deltas)


def test_n073_a_stream_has_one_head_a_finish_and_usage(client: OpenAI) -> None:
    chunks = list(client.chat.completions.create(**PLAIN, stream=True))
    assert len({(c.id, c.created, c.model, c.object) for c in chunks}) == 1
    assert (chunks[0].model, chunks[0].object) == (TINY, "chat.completion.chunk")
    assert chunks[0].id.startswith("chatcmpl-") and len(chunks[0].id) == 41
    first, *between, finish, last = chunks
    assert first.choices[0].delta.model_dump(exclude_unset=True) == {"role": "assistant"}
    assert all(chunk.choices[0].delta.content for chunk in between)
    assert all(chunk.choices[0].finish_reason is None for chunk in (first, *between))
    assert finish.choices[0].delta.model_dump(exclude_unset=True) == {}
    assert finish.choices[0].finish_reason in ("stop", "length")
    assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert last.choices == []


@pytest.mark.parametrize("options", [None, {"include_usage": False}, {"include_usage": True}])
def test_n075_usage_comes_in_every_case(client: OpenAI, options: Any) -> None:
    asked = {**PLAIN, "max_tokens": 2} | ({} if options is None else {"stream_options": options})
    *_, last = client.chat.completions.create(**asked, stream=True)
    assert last.usage is not None
    assert last.usage.completion_tokens == 2
    assert last.usage.total_tokens == last.usage.prompt_tokens + 2


@pytest.mark.parametrize(
    "asked",
    [
        {"temperature": 0},
        {"temperature": 1.2, "seed": 3},
        {"messages": SUM, "temperature": 0, "reasoning_effort": "low", "max_tokens": 80},
        {
            "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
            "tools": [WEATHER],
            "temperature": 0,
            "max_tokens": 60,
        },
    ],
    ids=["greedy", "drawn", "thinking", "tools"],
)
def test_n084_both_modes_say_the_same(client: OpenAI, asked: dict[str, Any]) -> None:
    asked = {**PLAIN, **asked}
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True))
    message = whole.choices[0].message
    assert text_of(chunks) == message.content
    assert text_of(chunks, "reasoning_content") == getattr(message, "reasoning_content", "")
    assert ("reasoning_effort" in asked) == bool(getattr(message, "reasoning_content", ""))
    calls = [
        call.function
        for chunk in chunks
        for choice in chunk.choices
        for call in choice.delta.tool_calls or ()
    ]
    told = [call.function for call in message.tool_calls or () if call.type == "function"]
    assert [(c.name, c.arguments) for c in calls if c] == [(t.name, t.arguments) for t in told]
    assert bool(told) == ("tools" in asked)
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    streamed, plain = chunks[-1].usage, whole.usage
    assert streamed is not None and plain is not None
    assert [getattr(streamed, name) for name in COUNTS] == [getattr(plain, name) for name in COUNTS]
    assert streamed.completion_tokens_details == plain.completion_tokens_details


def test_the_clients_accumulator_makes_the_same_of_a_stream(client: OpenAI) -> None:
    asked = {**PLAIN, "messages": SUM, "reasoning_effort": "low", "max_tokens": 80}
    with client.chat.completions.stream(**asked) as events:
        summed = events.get_final_completion()
    whole = client.chat.completions.create(**asked)
    assert summed.choices[0].message.content == whole.choices[0].message.content != ""
    assert summed.choices[0].finish_reason == whole.choices[0].finish_reason
    assert summed.usage is not None and summed.usage.completion_tokens_details is not None
    assert summed.usage.completion_tokens_details.reasoning_tokens


def test_thinking_is_off_unless_asked_for_and_shown_where_the_header_says(client: OpenAI) -> None:
    create = client.chat.completions.create
    asked = {**PLAIN, "messages": SUM, "max_tokens": 80}
    silent = create(**asked).choices[0].message
    assert not hasattr(silent, "reasoning_content")
    beside: Any = create(**asked, extra_body={"chat_template_kwargs": {"enable_thinking": True}})
    within = create(**asked, extra_headers={"x-include-thinking": "true"}).choices[0].message
    message = beside.choices[0].message
    assert within.content == f"<think>{message.reasoning_content}</think>{message.content}"
    assert not hasattr(within, "reasoning_content")


# --- log-probabilities ---------------------------------------------------------------------------


def test_logprobs_cover_the_content_token_by_token(client: OpenAI) -> None:
    asked = {**PLAIN, "logprobs": True, "top_logprobs": 3}
    whole = client.chat.completions.create(**asked)
    (choice,) = whole.choices
    assert choice.logprobs is not None and choice.logprobs.content is not None
    told = choice.logprobs.content
    spelt = b"".join(bytes(token.bytes or []) for token in told)
    assert spelt.decode() == choice.message.content
    for token in told:
        likely = [other.logprob for other in token.top_logprobs]
        assert len(likely) == 3 and likely == sorted(likely, reverse=True)
        assert token.top_logprobs[0].token == token.token  # greedy took the likeliest
        assert token.logprob == likely[0] <= 0
    streamed = [
        token
        for chunk in client.chat.completions.create(**asked, stream=True)
        for choice in chunk.choices
        for token in (choice.logprobs.content if choice.logprobs else None) or ()
    ]
    assert [token.token for token in streamed] == [token.token for token in told]


def test_logprobs_are_absent_unless_asked_for(client: OpenAI) -> None:
    answer = client.chat.completions.create(**PLAIN)
    assert "logprobs" not in answer.choices[0].model_fields_set
    bare = client.chat.completions.create(**PLAIN, logprobs=True)
    assert bare.choices[0].logprobs is not None
    assert all(not token.top_logprobs for token in bare.choices[0].logprobs.content or ())


# --- stop strings --------------------------------------------------------------------------------


def test_n071_a_stop_string_across_tokens_ends_the_answer(client: OpenAI) -> None:
    whole = client.chat.completions.create(**PLAIN, logprobs=True)
    (choice,) = whole.choices
    assert choice.logprobs is not None and choice.logprobs.content is not None
    tokens = [token.token for token in choice.logprobs.content]
    text = choice.message.content or ""
    stop = tokens[2][-1] + tokens[3][:1]  # the end of one token and the beginning of the next
    before = text[: text.index(stop)]
    stops = ["never said", stop]
    cut = client.chat.completions.create(**PLAIN, stop=stops)
    assert (cut.choices[0].message.content, cut.choices[0].finish_reason) == (before, "stop")
    assert (cut.choices[0].model_extra or {}).get("stop_reason") == stop
    chunks = list(client.chat.completions.create(**PLAIN, stop=stops, stream=True))
    assert text_of(chunks) == before
    assert chunks[-2].choices[0].finish_reason == "stop"
    single = client.chat.completions.create(**PLAIN, stop=stop)
    assert single.choices[0].message.content == before


def test_n071_reasoning_is_not_looked_at_for_stops(client: OpenAI) -> None:
    asked: Any = {**PLAIN, "messages": SUM, "reasoning_effort": "low", "max_tokens": 80}
    thought = client.chat.completions.create(**asked).choices[0].message.reasoning_content
    stopped = client.chat.completions.create(**asked, stop=thought.strip()[:3])
    assert stopped.choices[0].message.reasoning_content == thought


def test_n062_no_tokens_is_length(client: OpenAI) -> None:
    none = client.chat.completions.create(**{**PLAIN, "max_tokens": 0})
    assert (none.choices[0].message.content, none.choices[0].finish_reason) == ("", "length")
    both = client.chat.completions.create(**{**PLAIN, "max_tokens": 9}, max_completion_tokens=2)
    assert both.usage is not None and both.usage.completion_tokens == 2


# --- plain completions ---------------------------------------------------------------------------


def test_n085_text_and_its_token_ids_are_continued_alike(
    client: OpenAI, http: httpx.Client
) -> None:
    prompt = "Once upon a time"
    ids = http.post("/v1/tokenize", json={"model": TINY, "prompt": prompt}).json()["tokens"]
    texts = set()
    for form in (prompt, ids, [prompt], [ids]):
        asked: Any = {"model": TINY, "prompt": form, "temperature": 0}
        answer = client.completions.create(**asked)
        assert (answer.object, answer.choices[0].logprobs) == ("text_completion", None)
        assert answer.usage is not None
        assert 0 < answer.usage.completion_tokens <= 16
        texts.add(answer.choices[0].text)
    assert len(texts) == 1
    chunks = list(client.completions.create(**asked, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) in texts
    assert [chunk.choices[0].finish_reason for chunk in chunks[-3:-1]] == [None, "length"]
    assert chunks[-1].choices == [] and chunks[-1].usage is not None


def test_completion_logprobs_are_columns_over_the_text(client: OpenAI) -> None:
    asked: Any = {"model": TINY, "prompt": "Once upon a time", "temperature": 0, "max_tokens": 6}
    (choice,) = client.completions.create(**asked, logprobs=2).choices
    found = choice.logprobs
    assert found is not None
    assert found.tokens and found.token_logprobs and found.top_logprobs and found.text_offset
    assert "".join(found.tokens) == choice.text
    assert found.text_offset == [len("".join(found.tokens[:at])) for at in range(6)]
    assert [max(top.values()) for top in found.top_logprobs] == found.token_logprobs
    chunks = list(client.completions.create(**asked, logprobs=2, stream=True))
    streamed = [chunk.choices[0].logprobs for chunk in chunks if chunk.choices]
    assert [token for part in streamed if part for token in part.tokens or ()] == found.tokens


def test_a_continuation_keeps_to_a_format(client: OpenAI) -> None:
    schema = {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 3}
    form = {"type": "json_schema", "json_schema": {"name": "sums", "schema": schema}}
    asked: Any = {"model": TINY, "prompt": "Numbers: ", "max_tokens": 60, "seed": 1}
    answer = client.completions.create(**asked, extra_body={"response_format": form})
    said = json.loads(answer.choices[0].text)
    assert 1 <= len(said) <= 3 and all(isinstance(number, int) for number in said)


# --- tokens, models, prompts that were seen ------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [{}, {"tools": [WEATHER]}, {"chat_template_kwargs": {"enable_thinking": True}}],
    ids=["plain", "tools", "thinking"],
)
def test_n086_a_conversation_counts_as_chat_counts_it(
    client: OpenAI, http: httpx.Client, fields: dict[str, Any]
) -> None:
    body = {"model": TINY, "messages": HELLO, **fields}
    found = http.post("/tokenize", json={**body, "return_token_strs": True}).json()
    assert found["count"] == len(found["tokens"]) == len(found["token_strs"])
    limit = http.get("/models").json()[0]["limit"]
    assert 0 < found["max_model_len"] <= limit["context"]
    extra = {"chat_template_kwargs": fields.get("chat_template_kwargs")}
    asked: Any = {**PLAIN, "max_tokens": 1, "tools": fields.get("tools") or []}
    usage = client.chat.completions.create(**asked, extra_body=extra).usage
    assert usage is not None and usage.prompt_tokens == found["count"]
    told = http.post("/v1/detokenize", json={"model": TINY, "tokens": found["tokens"]}).json()
    assert told["prompt"] == "".join(found["token_strs"])
    bare = http.post("/tokenize", json={**body, "add_generation_prompt": False}).json()
    assert found["tokens"][: bare["count"]] == bare["tokens"] != found["tokens"]
    bad = http.post("/detokenize", json={"model": TINY, "tokens": [10**6]})
    assert (bad.status_code, bad.json()["error"]["code"]) == (400, "invalid_value")


def test_the_models_that_are_loaded_are_listed(client: OpenAI) -> None:
    (model,) = client.models.list().data
    assert (model.id, model.object, model.owned_by) == (TINY, "model", "helexa")
    assert client.models.retrieve(TINY) == model
    with pytest.raises(NotFoundError) as caught:
        client.models.retrieve("org/none")
    assert caught.value.code == "model_not_found"


def test_n135_a_prompt_that_was_seen_is_not_computed_again(client: OpenAI) -> None:
    def ask(messages: Any) -> tuple[str, int, int]:
        answer = client.chat.completions.create(**{**PLAIN, "messages": messages})
        assert answer.usage is not None
        details = answer.usage.prompt_tokens_details
        cached = details.cached_tokens or 0 if details else 0
        return answer.choices[0].message.content or "", answer.usage.prompt_tokens, cached

    tale = "A goat, a cat and a map of the garden were mentioned here. " * 4
    chat: Any = [{"role": "user", "content": tale}]
    said, length, cached = ask(chat)
    assert cached == 0
    again, _, seen = ask(chat)
    assert again == said
    assert 0 < seen < length
    later = [*chat, {"role": "assistant", "content": said}, {"role": "user", "content": "Go on."}]
    assert ask(later)[2] >= seen
    assert ask([{"role": "user", "content": f"Now this: {tale}"}])[2] == 0


def test_n070_greedy_answers_do_not_depend_on_each_other(client: OpenAI) -> None:
    prompts = ["Once", "Once upon a time there was", "The cat and the map of the garden, again"]

    def ask(prompt: str) -> tuple[str, str, int]:
        asked: Any = {"model": TINY, "prompt": prompt, "temperature": 0, "max_tokens": 6}
        answer = client.completions.create(**asked)
        assert answer.usage is not None
        choice = answer.choices[0]
        return choice.text, choice.finish_reason, answer.usage.completion_tokens

    alone = [ask(prompt) for prompt in prompts]
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(ask, prompts)) == alone


# --- the other client ----------------------------------------------------------------------------


def test_the_async_client(daemon: Daemon, client: OpenAI) -> None:
    async def main() -> tuple[list[str], str]:
        async with AsyncOpenAI(base_url=f"{daemon.url}/v1", api_key="k", max_retries=0) as ours:
            answers = ["", ""]

            async def ask(at: int) -> None:
                answer = await ours.chat.completions.create(**PLAIN)
                answers[at] = answer.choices[0].message.content or ""

            async with anyio.create_task_group() as tasks:
                for at in range(len(answers)):
                    tasks.start_soon(ask, at)
            stream = await ours.chat.completions.create(**PLAIN, stream=True)
            chunks = [chunk async for chunk in stream]
            return answers, text_of(chunks)

    said = client.chat.completions.create(**PLAIN).choices[0].message.content
    assert anyio.run(main) == ([said, said], said)
