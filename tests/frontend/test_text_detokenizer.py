"""A streamed answer and a whole one are the same text, however it is cut, and what is out never changes."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frontend.text.detokenizer import Detokenizer
from frontend.text.tokenizer import Tokenizer
from tests.frontend.text_samples import MODELS, VOCABULARIES, texts, tokenizer
from tests.shared_data import shared_data

ALL = (*VOCABULARIES, *MODELS)


def stream(subject: Detokenizer, ids: list[int], size: int = 1) -> str:
    pushed = [subject.push(ids[start : start + size]) for start in range(0, len(ids), size)]
    return "".join(pushed) + subject.flush()


@pytest.mark.parametrize("name", ALL)
def test_streaming_gives_the_whole_text(name: str) -> None:
    subject = tokenizer(name)
    for text in texts():
        ids = subject.encode(text, add_special_tokens=True)
        for skip in (True, False):
            whole = subject.decode(ids, skip)
            for size in (1, 3):
                assert stream(Detokenizer(subject, context=(), skip_special_tokens=skip), ids, size) == whole


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_ids_in_any_pieces(name: str, data: st.DataObject) -> None:
    subject = tokenizer(name)
    pieces = data.draw(st.lists(st.lists(st.integers(0, min(subject.vocab_size, 700)), max_size=5), max_size=8))
    ids = [token_id for piece in pieces for token_id in piece]
    skip = data.draw(st.booleans())
    streaming = Detokenizer(subject, context=[], skip_special_tokens=skip)
    assert "".join(map(streaming.push, pieces)) + streaming.flush() == subject.decode(ids, skip)


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=24), cuts=st.lists(st.integers(1, 4), max_size=24))
def test_any_bytes_in_any_pieces(data: bytes, cuts: list[int]) -> None:
    ids = [3 + byte for byte in data]
    subject, streamed = Detokenizer(tokenizer("llama-spm"), context=[1]), ""
    for size in (*cuts, len(ids)):
        streamed += subject.push(ids[:size])
        ids = ids[size:]
    whole = data.decode("utf-8", "replace")
    assert streamed + subject.flush() == (whole[1:] if whole.startswith(" ") else whole)


@pytest.mark.parametrize("name", ALL)
def test_an_answer_continues_its_prompt(name: str) -> None:
    """At every token of a text, what comes before is the prompt and what follows is the answer."""
    subject = tokenizer(name)
    for text in texts()[:30]:
        ids = subject.encode(text, add_special_tokens=True)
        whole = subject.decode(ids)
        for start in range(min(len(ids), 40)):
            prompt = Detokenizer(subject, context=())
            certain = prompt.push(ids[:start])
            assert certain + stream(Detokenizer(subject, context=ids[:start]), ids[start:]) == whole


@pytest.mark.parametrize("name", ["llama-spm", *MODELS])
def test_a_leading_space_is_kept_unless_it_starts_the_text(name: str) -> None:
    subject = tokenizer(name)
    ids = subject.encode("Once upon", add_special_tokens=False)
    assert stream(Detokenizer(subject), ids) == " Once upon"
    assert stream(Detokenizer(subject, context=[1, *ids]), ids) == " Once upon"
    assert stream(Detokenizer(subject, context=[1]), ids) == "Once upon"
    assert stream(Detokenizer(subject, context=[1], skip_special_tokens=False), ids) == " Once upon"


@pytest.mark.parametrize("name", VOCABULARIES)
def test_no_half_characters(name: str) -> None:
    subject = tokenizer(name)
    text = "👩‍👩‍👧‍👦 日本語 Привет 🏳️‍🌈"
    streaming = Detokenizer(subject)
    for token_id in subject.encode(text, add_special_tokens=False):
        assert "\ufffd" not in streaming.push([token_id])
    assert streaming.flush() == ""


def test_an_unfinished_character_comes_out_in_the_end() -> None:
    streaming = Detokenizer(tokenizer("llama-spm"))
    assert streaming.push([3 + 0xF0, 3 + 0x9F]) == ""
    assert streaming.flush() == "\ufffd"
    assert streaming.flush() == ""


@pytest.mark.parametrize("name", MODELS)
def test_the_golden_answers(name: str) -> None:
    golden = json.loads(shared_data("models", name, "golden_greedy.json").read_text(encoding="utf-8"))
    subject: Tokenizer = tokenizer(name)
    for case in golden["cases"]:
        answer = stream(Detokenizer(subject, context=case["prompt_ids"]), case["output_ids"])
        assert subject.decode(case["prompt_ids"]) + answer == case["text"]
