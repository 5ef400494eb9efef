"""Log-probabilities leave with the text of their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from helexa.text.events import Text, TokenLogprob
from helexa.text.parsing.markers import probe_markers
from helexa.text.parsing.parser import OutputParser
from helexa.text.tokenizer import Tokenizer
from tests.text.builders import Conversation, quick

CALL = '<tool_call>{"name":"f"}</tool_call>'


def logprob(token_id: int) -> TokenLogprob:
    return TokenLogprob(token_id, "", b"", -1.0)


def run(tokenizer: Tokenizer, ids: Sequence[int], **options: Any) -> Conversation:
    parser = OutputParser(tokenizer, probe_markers(tokenizer), **options)
    events = [event for id in ids for event in parser.push(id, logprob(id))]
    return Conversation([*events, *parser.finish()])


def ids_of(result: Conversation) -> list[int]:
    return [entry.id for entry in result.logprobs]


@quick
@given(text=st.text(min_size=1, max_size=20), stop=st.lists(st.text(min_size=1, max_size=3)))
def test_every_token_of_the_text_has_its_logprob(
    text: str, stop: list[str], byte_level: Tokenizer
) -> None:
    ids = byte_level.encode(text, add_special_tokens=False)

    result = run(byte_level, ids, stop=stop)

    if result.text == text:
        assert ids_of(result) == ids
    else:
        kept = ids_of(result)
        assert kept == ids[: len(kept)]
        assert byte_level.decode(kept).startswith(result.text)


def test_a_character_of_several_tokens_brings_all_of_them(byte_level: Tokenizer) -> None:
    ids = byte_level.encode("a🙂b")

    events = run(byte_level, ids).events

    texts = [(event.text, len(event.logprobs)) for event in events if isinstance(event, Text)]
    assert texts == [("a", 1), ("🙂", len(ids) - 2), ("b", 1)]


def test_held_back_text_keeps_its_logprobs(byte_level: Tokenizer) -> None:
    ids = [byte_level.token_to_id(char) or 0 for char in "aSTx"]

    events = run(byte_level, ids, stop=["STOP"]).events

    texts = [(event.text, len(event.logprobs)) for event in events if isinstance(event, Text)]
    assert texts == [("a", 1), ("STx", 3)]


def test_what_a_stop_string_cuts_off_has_none(byte_level: Tokenizer) -> None:
    ids = [byte_level.token_to_id(char) or 0 for char in "abcd"]

    assert ids_of(run(byte_level, ids, stop=["cd"])) == ids[:2]


def test_only_content_tokens_have_them(byte_level: Tokenizer) -> None:
    hi, ok = byte_level.encode("Hi"), byte_level.encode("ok")
    before = byte_level.encode("<think>a 🙂</think>\n\n")
    call = byte_level.encode(CALL)

    assert ids_of(run(byte_level, [*before, *hi, *call, *ok])) == [*hi, *ok]


def test_a_bad_call_is_content(byte_level: Tokenizer) -> None:
    ids = byte_level.encode("a<tool_call>b</tool_call>c")

    assert ids_of(run(byte_level, ids)) == ids


def test_calls_by_literal_markers_have_none(unmarked: Tokenizer) -> None:
    hi, ok = unmarked.encode("Hi"), unmarked.encode("ok")

    result = run(unmarked, [*hi, *unmarked.encode(CALL), *ok], tools=[{"name": "f"}])

    assert ids_of(result) == [*hi, *ok]


def test_a_cut_character_at_the_end_has_its_logprob(byte_level: Tokenizer) -> None:
    ids = byte_level.encode("a🙂")[:-1]

    assert ids_of(run(byte_level, ids)) == ids
