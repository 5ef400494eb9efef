"""Generated requests and messages.

*Plain* ones hold what both dialects can say, in the form in which it comes back: they must survive
the way there and back unchanged. *Free* ones hold everything, in any order.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

Json = dict[str, Any]

texts = st.text(max_size=8)
words = st.text(min_size=1, max_size=8)
ids = st.integers(0, 99).map("toolu_{:02}".format)
names = st.sampled_from(["Read", "get_weather", "ls"])
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # what a double holds: the client's own parser reads arguments as such
    .map(lambda number: round(number % 1000, 3))
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
objects = st.dictionaries(texts, values, max_size=3)


def text_block(text: str) -> Json:
    return {"type": "text", "text": text}


def thought(text: str) -> Json:
    return {"type": "thinking", "thinking": text, "signature": ""}


def result(of: str, content: Any) -> Json:
    return {"type": "tool_result", "tool_use_id": of, "content": content}


kinds = st.sampled_from(["image/png", "image/jpeg", "image/webp"])
data = st.binary(max_size=6).map(lambda raw: raw.hex())
sources = st.builds(
    lambda kind, data: {"type": "base64", "media_type": kind, "data": data}, kinds, data
) | words.map(lambda path: {"type": "url", "url": f"https://x.test/{path}"})
images = sources.map(lambda source: {"type": "image", "source": source})
uses = st.builds(
    lambda of, name, given: {"type": "tool_use", "id": of, "name": name, "input": given},
    *(ids, names, objects),
)
results = st.builds(result, ids, texts)

some_text = words.map(lambda text: [text_block(text)])
pictured = st.builds(
    lambda before, image, after: [*before, image, *after],
    st.lists(texts.map(text_block), max_size=2),
    images,
    st.lists(texts.map(text_block) | images, max_size=2),
)
user_contents = st.one_of(
    texts,
    pictured,
    st.lists(results, min_size=1, max_size=3),
    st.builds(
        lambda found, said: [*found, *said],
        st.lists(results, min_size=1, max_size=3),
        some_text | pictured,
    ),
)
assistant_contents = st.one_of(
    texts,
    st.builds(
        lambda thinking, said, calls: [*thinking, *said, *calls],
        st.lists(words.map(thought), min_size=1, max_size=1),
        st.just([]) | some_text,
        st.lists(uses, max_size=3),
    ),
    st.builds(
        lambda said, calls: [*said, *calls],
        st.just([]) | some_text,
        st.lists(uses, min_size=1, max_size=3),
    ),
)
turns = st.one_of(
    st.builds(lambda said: {"role": "user", "content": said}, user_contents),
    st.builds(lambda said: {"role": "assistant", "content": said}, assistant_contents),
)


def only_results(message: Json) -> bool:
    said = message["content"]
    return isinstance(said, list) and all(block["type"] == "tool_result" for block in said)


def separate(messages: list[Json]) -> list[Json]:
    """Without users' messages that follow one with results only: there, they are one."""
    found: list[Json] = []
    for message in messages:
        if found and message["role"] == "user" and only_results(found[-1]):
            continue
        found.append(message)
    return found


tools = st.builds(
    lambda name, described, schema: {"name": name, **described, "input_schema": schema},
    names,
    st.just({}) | texts.map(lambda text: {"description": text}),
    objects.map(lambda properties: {"type": "object", "properties": properties}),
)
choices = st.builds(
    lambda choice, single: {**choice, **single},
    st.sampled_from(["auto", "any", "none"]).map(lambda kind: {"type": kind})
    | names.map(lambda name: {"type": "tool", "name": name}),
    st.sampled_from([{}, {"disable_parallel_tool_use": True}]),
)
OPTIONS: dict[str, st.SearchStrategy[Any]] = {
    "system": texts,
    "temperature": st.floats(0, 2),
    "top_p": st.floats(0, 1),
    "top_k": st.integers(0, 100),
    "stop_sequences": st.lists(words, max_size=3),
    "stream": st.booleans(),
    "tools": st.lists(tools, max_size=3),
    "tool_choice": choices,
    "thinking": st.sampled_from([{"type": "enabled"}, {"type": "disabled"}]),
    "chat_template_kwargs": st.just({"custom": 1}),
    "seed": st.integers(0, 1 << 31),
}
REQUIRED = {"model": words, "max_tokens": st.integers(1, 100_000)}

plain_requests = st.fixed_dictionaries(
    {**REQUIRED, "messages": st.lists(turns, max_size=5).map(separate)}, optional=OPTIONS
)

free_blocks = st.one_of(
    *(texts.map(text_block), images, uses, results, words.map(thought)),
    st.just({"type": "redacted_thinking", "data": "x"}),
    st.just({"type": "document", "source": {"type": "text", "data": "d"}}),
    st.just({"type": "image", "source": {"type": "file", "file_id": "f"}}),
    st.builds(result, ids, st.lists(texts.map(text_block) | images, max_size=3)),
)
free_messages = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "assistant", "system"]),
        "content": texts | st.lists(free_blocks, max_size=5),
    }
)
free_requests = st.fixed_dictionaries(
    {**REQUIRED, "messages": st.lists(free_messages, max_size=5)},
    optional={
        **OPTIONS,
        "system": texts | st.lists(free_blocks, max_size=3),
        "metadata": st.just({"user_id": "u"}),
        "thinking": st.sampled_from(["enabled", "adaptive", "disabled"]).map(
            lambda kind: {"type": kind, "budget_tokens": 1024}
        ),
        "tools": st.lists(
            tools | st.just({"type": "web_search_20250305", "name": "web_search"}), max_size=3
        ),
    },
)

counts = st.integers(0, 1 << 40)
usages = st.fixed_dictionaries({"input_tokens": counts, "output_tokens": counts}) | st.builds(
    lambda read, written, cached: {
        "input_tokens": read,
        "output_tokens": written,
        "cache_read_input_tokens": cached,
        "cache_creation_input_tokens": 0,
    },
    *(counts, counts, counts),
)
unfinished = st.sampled_from([("max_tokens", None), ("refusal", None)])
stopped = words.map(lambda text: ("stop_sequence", text))


def _message(thoughts: list[Json], said: list[Json], called: tuple[Any, Any], of: Json) -> Json:
    calls, (reason, sequence) = called
    content = [*thoughts, *said, *calls] or [text_block("")]
    ends = {"stop_reason": reason, "stop_sequence": sequence}
    return {**of, "type": "message", "role": "assistant", "content": content, **ends}


messages = st.builds(
    _message,
    st.just([]) | words.map(lambda text: [thought(text)]),
    st.just([]) | some_text,
    st.tuples(st.just([]), st.just(("end_turn", None)) | unfinished | stopped)
    | st.tuples(
        st.lists(uses, min_size=1, max_size=3), st.just(("tool_use", None)) | unfinished | stopped
    ),
    st.fixed_dictionaries({"id": words.map("msg_{}".format), "model": words, "usage": usages}),
)
"""What a model may answer."""
