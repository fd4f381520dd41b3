"""Tokens to text with stop strings in between."""

from hypothesis import given, settings
from hypothesis import strategies as st

from frontend.text.answer import AnswerText
from frontend.text.stops import StopStrings, TextDelta
from tests.frontend.text_samples import texts, tokenizer

STORY = "One day, a little girl named Lily found a needle in her room."


def ids_of(text: str) -> list[int]:
    return tokenizer("stories260K").encode(text, add_special_tokens=False)


def stream(answer: AnswerText, ids: list[int]) -> TextDelta:
    emitted = []
    for token_id in ids:
        delta = answer.push((token_id,))
        emitted.append(delta.text)
        if delta.stopped is not None:
            return TextDelta("".join(emitted), delta.stopped)
    return TextDelta("".join(emitted) + answer.finish())


def test_an_answer_ends_at_its_stop_string() -> None:
    answer = AnswerText(tokenizer("stories260K"), context=[1], stops=("named L", "needle"))
    assert stream(answer, ids_of(STORY)) == TextDelta("One day, a little girl ", "named L")


def test_a_stop_string_can_be_included_and_the_rest_is_dropped() -> None:
    answer = AnswerText(tokenizer("stories260K"), stops=("girl",), include_stop=True)
    assert answer.push(ids_of(STORY)) == TextDelta(" One day, a little girl", "girl")


def test_held_text_comes_out_in_the_end() -> None:
    answer = AnswerText(tokenizer("stories260K"), context=[1], stops=("room.\n",))
    assert stream(answer, ids_of(STORY)) == TextDelta(STORY)


def test_half_a_character_is_no_stop() -> None:
    subject = tokenizer("gpt-2")
    ids = subject.encode("go 🦙🦙", add_special_tokens=False)
    assert stream(AnswerText(subject, stops=("🦙",)), ids) == TextDelta("go ", "🦙")
    assert stream(AnswerText(subject, stops=("🦊",)), ids[:-1]) == TextDelta("go 🦙\ufffd")


def test_stop_strings_wait_for_min_tokens() -> None:
    ids = ids_of("Lily Lily Lily")
    per_word = len(ids) // 3
    for min_tokens, kept in ((0, " "), (1, " "), (per_word + 1, " Lily "), (len(ids) + 1, " Lily Lily Lily")):
        for pushed in ([ids], [[token_id] for token_id in ids]):
            answer = AnswerText(tokenizer("stories260K"), stops=("Lily",), min_tokens=min_tokens)
            deltas = [answer.push(piece) for piece in pushed]
            assert "".join(delta.text for delta in deltas) + answer.finish() == kept


def test_special_tokens_can_be_shown() -> None:
    subject = tokenizer("stories260K")
    assert stream(AnswerText(subject), [403, 1]).text == " Once"
    assert stream(AnswerText(subject, skip_special_tokens=False, stops=("<s>",)), [403, 1]) == TextDelta(" Once", "<s>")


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_streaming_equals_stopping_the_whole_text(data: st.DataObject) -> None:
    subject = tokenizer(data.draw(st.sampled_from(["gpt-2", "llama-spm"])))
    text = data.draw(st.sampled_from(texts()))
    start = data.draw(st.integers(0, len(text)))
    stops = tuple(filter(None, [text[start : start + data.draw(st.integers(1, 6))], "\n\n"]))
    ids = subject.encode(text, add_special_tokens=False)
    whole = StopStrings(stops)
    expected = whole.push(subject.decode(ids))
    if expected.stopped is None:
        expected = TextDelta(expected.text + whole.flush())
    assert stream(AnswerText(subject, context=(), stops=stops), ids) == expected
