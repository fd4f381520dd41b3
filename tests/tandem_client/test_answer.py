"""An answer's way through its calls: what is sent next, and what is final. Pure."""

import pytest

from tandem_client import ConnectionLost, NotFound, Retries, Unavailable, pb, text
from tandem_client.answer import Course, called, ended_early
from tandem_client.tries import Tries

STARTED = pb.GenerateResponse(started=pb.Started(request_id="req-1"))
FINISHED = pb.GenerateResponse(finished=pb.Finished(usage=pb.Usage(completion_tokens=3)))


def delta(words: str, *ids: int) -> pb.GenerateResponse:
    return pb.GenerateResponse(delta=pb.Delta(text=words, token_ids=ids))


def course(**options: float) -> Course:
    return Course(text("hi", **options), Tries(Retries(), None))  # type: ignore[arg-type]


def test_before_it_started_the_request_is_sent_again() -> None:
    way = course()
    request = way.next_message()
    assert called(request) == "Generate"
    assert way.wait_s(ended_early()) > 0
    assert way.next_message() is request
    assert not way.is_left_behind


def test_from_then_on_what_is_missing_is_asked_for() -> None:
    way = course()
    assert way.take(STARTED) is None
    assert way.take(delta("a", 1, 2)) is not None
    assert way.is_left_behind
    assert way.wait_s(ended_early()) > 0, "a proxy may end a call as if it were complete"
    message = way.next_message()
    assert called(message) == "Resume"
    assert message == pb.ResumeRequest(request_id="req-1", next_index=2)
    way.take(delta("", 3))
    assert way.take(FINISHED) is None
    assert (way.is_over, way.is_left_behind) == (True, False)
    assert (way.answer.text, way.answer.token_ids, way.answer.usage.completion_tokens) == ("a", [1, 2, 3], 3)


def test_what_is_final_once_it_started() -> None:
    way = course()
    way.take(STARTED)
    with pytest.raises(Unavailable, match="workers are gone"):
        way.wait_s(Unavailable("workers are gone"))
    with pytest.raises(ConnectionLost, match="not kept") as failure:
        way.wait_s(NotFound("not kept"))
    assert failure.value.request_id == "req-1"
    short = course(resume_grace_s=0)
    short.take(STARTED)
    with pytest.raises(ConnectionLost):
        short.wait_s(ended_early())


def test_what_is_said_of_a_prompt_is_put_together_and_may_come_again() -> None:
    def scores(first: int, *ids: int) -> pb.GenerateResponse:
        found = [pb.PromptToken(token_id=each) for each in ids]
        return pb.GenerateResponse(prompt_logprobs=pb.PromptLogprobs(first_index=first, tokens=found))

    way = course()
    for response in (STARTED, scores(0, 7, 8), scores(2, 9), scores(0, 7, 8), scores(2, 9)):
        assert way.take(response) is None
    assert [each.token_id for each in way.answer.prompt_logprobs] == [7, 8, 9]
