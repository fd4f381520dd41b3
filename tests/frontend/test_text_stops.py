"""Stop strings: any way of cutting a text into pieces gives what a search of the whole text gives."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import InvalidRequest
from frontend.text.stops import StopStrings, TextDelta

LETTERS = st.text("ab\n", max_size=30)
STOPS = st.lists(st.text("ab\n", min_size=1, max_size=5), max_size=4).map(tuple)


def search(text: str, stops: tuple[str, ...], *, include_stop: bool = False) -> TextDelta:
    """The stop string that is complete first, the longest of those; by looking at the whole text."""
    found = [(text.index(stop) + len(stop), -len(stop), stop) for stop in stops if stop in text]
    if not found:
        return TextDelta(text)
    end, _, stop = min(found)
    return TextDelta(text[: end if include_stop else end - len(stop)], stop)


def run(subject: StopStrings, pieces: list[str]) -> TextDelta:
    emitted = []
    for piece in pieces:
        delta = subject.push(piece)
        emitted.append(delta.text)
        if delta.stopped is not None:
            return TextDelta("".join(emitted), delta.stopped)
    return TextDelta("".join(emitted) + subject.flush())


@settings(deadline=None)
@given(pieces=st.lists(LETTERS, max_size=6), stops=STOPS, include_stop=st.booleans())
def test_pieces_do_not_matter(pieces: list[str], stops: tuple[str, ...], include_stop: bool) -> None:
    expected = search("".join(pieces), stops, include_stop=include_stop)
    assert run(StopStrings(stops, include_stop=include_stop), pieces) == expected
    assert run(StopStrings(stops, include_stop=include_stop), list("".join(pieces))) == expected


@settings(deadline=None)
@given(text=LETTERS, stops=STOPS)
def test_as_much_as_possible_is_let_out_and_no_part_of_a_stop(text: str, stops: tuple[str, ...]) -> None:
    subject, emitted = StopStrings(stops), ""
    for end in range(1, len(text) + 1):
        delta = subject.push(text[end - 1])
        emitted += delta.text
        if delta.stopped is not None:
            return
        held = text[len(emitted) : end]
        beginnings = {stop[:size] for stop in stops for size in range(len(stop))}
        assert held in beginnings | {""}
        longer = [text[start:end] for start in range(len(emitted))]
        assert not any(ending in beginnings for ending in longer)


def test_text_before_a_stop_is_kept_and_the_rest_is_gone() -> None:
    subject = StopStrings(("END",))
    assert subject.push("one E") == TextDelta("one ")
    assert subject.push("N") == TextDelta("")
    assert subject.push("D two") == TextDelta("", "END")
    assert subject.push("three") == TextDelta("", "END")
    assert subject.flush() == ""


def test_of_stops_that_end_together_the_longest_counts() -> None:
    assert StopStrings(("\n", "\n\nUser:", ":", "User:")).push("hi\n\nUser: x") == TextDelta("hi", "\n")
    assert StopStrings((":", "User:")).push("hi User: x") == TextDelta("hi ", "User:")


def test_a_stop_can_be_included() -> None:
    subject = StopStrings(("</a>",), include_stop=True)
    assert subject.push("<a></") == TextDelta("<a>")
    assert subject.push("a> more") == TextDelta("</a>", "</a>")


def test_what_was_held_comes_out_in_the_end() -> None:
    subject = StopStrings(("END",))
    assert subject.push("EN").text + subject.flush() == "EN"
    assert subject.push("D") == TextDelta("D")  # starts over


def test_an_empty_stop_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="empty"):
        StopStrings(("a", ""))


def test_long_and_alike_stops_do_not_slow_the_text_down() -> None:
    subject = StopStrings(tuple("a" * 990 + str(i) for i in range(16)))
    started = time.perf_counter()
    for _ in range(5_000):
        assert subject.push("aaaa").stopped is None
    assert time.perf_counter() - started < 2  # about 10 ms; searching anew each time takes far longer
