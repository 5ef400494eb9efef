"""Stop strings across any cut of the text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from helexa.text.stop import Scanner, StopMatcher
from tests.text.builders import quick

LETTERS = "ab"


def first_match(text: str, stops: list[str]) -> int | None:
    """Where the stop string begins that is complete first; the longest of several."""
    found = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    return min(found)[1] if found else None


@quick
@given(
    pieces=st.lists(st.text(LETTERS, max_size=5), max_size=10),
    stops=st.lists(st.text(LETTERS, min_size=1, max_size=5), max_size=4),
)
def test_e059_any_cut_ends_where_the_whole_text_does(pieces: list[str], stops: list[str]) -> None:
    whole = "".join(pieces)
    match = first_match(whole, stops)
    matcher = StopMatcher(stops)

    given_out = "".join(matcher.push(piece)[0] for piece in pieces)
    held = matcher.held
    given_out += matcher.flush()

    assert matcher.stopped == (match is not None)
    assert matcher.found is None or whole[match:].startswith(matcher.found)
    assert matcher.found in (None, *stops)
    assert given_out == whole[:match]
    assert held == len(whole) - len(given_out) if match is not None else held <= 4


@quick
@given(
    text=st.text(LETTERS, max_size=20),
    stops=st.lists(st.text(LETTERS, min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_e059_no_more_is_held_back_than_could_still_match(text: str, stops: list[str]) -> None:
    scanner = Scanner(stops)
    scan = scanner.push(text)
    if scan.found is not None:
        return

    held = text[len(scan.before) :]

    tails = [text[at:] for at in range(len(text) + 1)]
    assert held == next(tail for tail in tails if any(stop.startswith(tail) for stop in stops))
    assert scanner.flush() == held


def test_e059_a_stop_string_over_three_pieces() -> None:
    matcher = StopMatcher(["STOP"])

    assert [matcher.push(piece) for piece in ("go S", "TO", "P on")] == [
        ("go ", False),
        ("", False),
        ("", True),
    ]
    assert matcher.push("more") == ("", True)
    assert matcher.flush() == ""


def test_e059_the_earliest_of_two_wins() -> None:
    assert StopMatcher(["END", "STOP"]).push("a STOP b END") == ("a ", True)
    assert StopMatcher(["cd", "bcd"]).push("abcd") == ("a", True)


def test_e059_a_held_back_tail_is_released_at_the_end() -> None:
    matcher = StopMatcher(["\n\nUser:"])

    assert matcher.push("bye\n\nUse") == ("bye", False)
    assert matcher.flush() == "\n\nUse"


def test_unarmed_nothing_stops_or_is_held_back() -> None:
    matcher = StopMatcher(["STOP"])

    assert matcher.push("ST") == ("", False)
    assert matcher.push("OP STOP ST", armed=False) == ("STOP STOP ST", False)
    assert matcher.push("OP") == ("OP", False)
    assert matcher.push(" STOP") == (" ", True)


def test_without_stop_strings_text_passes() -> None:
    assert StopMatcher([]).push("anything") == ("anything", False)


def test_a_scan_goes_on_behind_what_it_found() -> None:
    scanner = Scanner(["<a>", "</a>"])

    scan = scanner.push("x<a>y</a>z")

    assert (scan.before, scan.found) == ("x", "<a>")
    scan = scanner.push(scan.rest)
    assert (scan.before, scan.found, scan.rest) == ("y", "</a>", "z")
