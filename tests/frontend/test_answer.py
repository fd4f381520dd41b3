"""One answer: tokens become text, and a stop string, a stop token or the length ends it, exactly once."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from engine.sequence import BlockHash, SamplingParams
from frontend.answer import Answer
from frontend.checks import ModelLimits
from frontend.events import Finish, TokenLogprob, TokenLogprobs
from frontend.job import Job
from frontend.ledger import Ledger
from frontend.leg_events import Row
from frontend.model import LoadedModel
from frontend.request import GenerateRequest
from frontend.text.tokenizer import Tokenizer
from protos import worker_pb2 as pb

GOES_ON, STOP, LENGTH = pb.FINISH_REASON_UNSPECIFIED, pb.FINISH_REASON_STOP, pb.FINISH_REASON_LENGTH
COMPLETE = pb.FINISH_REASON_COMPLETE


@cache
def model() -> LoadedModel:
    """One token per byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(models.BPE({piece: number for number, piece in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    with TemporaryDirectory() as folder:
        backend.save(f"{folder}/tokenizer.json")
        tokenizer = Tokenizer.load(Path(folder))
    return LoadedModel(
        name="m",
        created=0,
        tokenizer=tokenizer,
        template=None,
        limits=ModelLimits(vocab_size=256, max_context=100, eos_token_ids=frozenset()),
    )


def ids(text: str) -> list[int]:
    return model().tokenizer.encode(text, add_special_tokens=False)


def answer(min_tokens: int = 0, **fields: object) -> Answer:
    params = SamplingParams(max_tokens=50, seed=0, min_tokens=min_tokens)
    prompt = ids("prompt")
    job = Job("r", "m", prompt, len(prompt), params, BlockHash(bytes(16)), [], "", Ledger(), cached_tokens=4)
    return Answer(model(), GenerateRequest(prompt="prompt", **fields), job)


def rows(text: str, finish: "pb.FinishReason" = GOES_ON, first: int = 0) -> list[Row]:
    tokens = ids(text)
    last = len(tokens) - 1
    return [Row(first + i, t, finish if i == last else GOES_ON, None, 1, 2) for i, t in enumerate(tokens)]


def test_text_comes_with_its_tokens_and_their_place() -> None:
    made = answer()
    first, second = made.push(rows("Hel")), made.push(rows("lo", LENGTH, first=3))

    assert (first.text, first.token_ids, first.first_index) == ("Hel", tuple(ids("Hel")), 0)
    assert (second.text, second.first_index) == ("lo", 3)
    finished = made.finished
    assert (finished.reason, finished.matched) == (Finish.LENGTH, None)
    assert (finished.usage.prompt_tokens, finished.usage.completion_tokens, finished.usage.cached_tokens) == (6, 5, 4)


def test_no_tokens_are_no_delta() -> None:
    made = answer()
    assert made.push([]) is None
    assert made.finished is None


def test_a_stop_token_is_counted_and_not_read() -> None:
    made = answer()
    delta = made.push(rows("Hi!", STOP))
    assert (delta.text, len(delta.token_ids)) == ("Hi", 3)
    assert (made.finished.reason, made.finished.matched) == (Finish.STOP, ids("!")[0])
    assert made.finished.usage.completion_tokens == 3


def test_the_token_that_completes_a_grammar_is_read() -> None:
    made = answer(stop=("END",))
    assert made.push(rows("{}E", COMPLETE)).text == "{}E"
    assert (made.finished.reason, made.finished.matched) == (Finish.STOP, None)


def test_a_stop_string_over_two_deltas_never_leaks_and_drops_what_follows() -> None:
    made = answer(stop=("END",))
    first, second = made.push(rows("aE")), made.push(rows("NDxyz", first=2))
    assert (first.text, first.token_ids) == ("a", tuple(ids("aE")))
    assert (second.text, second.token_ids) == ("", tuple(ids("ND")))
    assert (made.finished.reason, made.finished.matched) == (Finish.STOP, "END")
    assert made.finished.usage.completion_tokens == 4


def test_text_held_back_for_a_stop_string_comes_when_the_answer_ends_otherwise() -> None:
    made = answer(stop=("END",))
    assert made.push(rows("aE")).text == "a"
    assert made.push(rows("N", LENGTH, first=2)).text == "EN"
    held = answer(stop=("END",))
    held.push(rows("aE"))
    assert held.push(rows("!", STOP, first=2)).text == "E"


def test_a_character_waits_for_its_last_byte() -> None:
    made = answer()
    tokens = rows("é", LENGTH)
    assert (made.push(tokens[:1]).text, made.push(tokens[1:]).text) == ("", "é")


def test_logprobs_name_their_tokens() -> None:
    made = answer(logprobs=1)
    (a,), (b,) = ids("a"), ids("b")
    logprobs = pb.Logprobs(chosen=-0.5, top_ids=[a, b], top=[-0.5, -1.0])
    delta = made.push([Row(0, a, LENGTH, logprobs, 1, 2)])
    top = (TokenLogprob(a, -0.5, b"a"), TokenLogprob(b, -1.0, b"b"))
    assert delta.logprobs == (TokenLogprobs(top[0], top),)
