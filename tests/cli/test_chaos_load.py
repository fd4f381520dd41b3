"""Which verdict each end of a request gets; what talks to a server is played by the tests."""

import asyncio
from typing import cast

import pytest

from cli.chaos.answers import Heard
from cli.chaos.asks import PATIENT, Ask, Behavior, Dialect, Kind
from cli.chaos.faults import Moment
from cli.chaos.load import MID_STREAM, Load, Verdict, right_answers
from cli.chaos.talk import Failed, OnPiece, PastDeadline, Talk
from engine.errors import Unavailable

ASK = Ask(
    number=0, kind=Kind.GREEDY, dialect=Dialect.COMPLETIONS, stream=True, prompt="hi", fields={"temperature": 0.0}
)
RIGHT = Heard(text="a cache", num_tokens=2, finish="stop", request_id="req-1")
HALF = Heard(text="a ca")
OTHER = Heard(text="a key")


class FakeTalk:
    """Answers in turn what it was given; the last one again and again."""

    def __init__(self, *ends: Heard | Exception, pieces: tuple[int, ...] = ()) -> None:
        self.ends = list(ends)
        self.pieces = pieces

    async def ask(self, ask: Ask, behavior: Behavior = PATIENT, on_piece: OnPiece = lambda _: None) -> Heard:
        for piece in self.pieces:
            on_piece(piece)
        end = self.ends.pop(0) if len(self.ends) > 1 else self.ends[0]
        if isinstance(end, Exception):
            raise end
        return end


def load(talk: FakeTalk) -> Load:
    return Load(cast("Talk", talk), (ASK,), {0: RIGHT}, seed=0)


@pytest.mark.parametrize(
    ("end", "behavior", "verdict"),
    [
        (RIGHT, PATIENT, Verdict.RIGHT),
        (RIGHT, Behavior(hang_up_s=1.0), Verdict.RIGHT),
        (HALF, Behavior(max_pieces=2), Verdict.CANCELLED),
        (OTHER, Behavior(max_pieces=2), Verdict.WRONG),
        (OTHER, PATIENT, Verdict.WRONG),
        (PastDeadline(HALF), Behavior(deadline_s=1.0), Verdict.LATE),
        (PastDeadline(OTHER), Behavior(deadline_s=1.0), Verdict.WRONG),
        (Failed("the connection ended before the answer did", HALF), PATIENT, Verdict.LOST),
        (Failed("error", OTHER), PATIENT, Verdict.WRONG),
    ],
)
async def test_the_end_of_a_request_is_judged(end: Heard | Exception, behavior: Behavior, verdict: Verdict) -> None:
    made = load(FakeTalk(end))
    await made._one(ASK, behavior)
    (outcome,) = made.outcomes
    assert outcome.verdict is verdict
    assert bool(outcome.why) is (verdict in (Verdict.WRONG, Verdict.LOST))


async def test_who_is_refused_asks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.chaos.load.AGAIN_S", 0.0)
    refused = Failed("no decode worker serves", Heard(), is_refusal=True)
    made = load(FakeTalk(refused, refused, RIGHT))
    await made._one(ASK, PATIENT)
    (outcome,) = made.outcomes
    assert (outcome.verdict, outcome.refusals) == (Verdict.RIGHT, ("no decode worker serves",) * 2)


async def test_pieces_that_come_at_once_still_tell_where_the_load_is() -> None:
    made = load(FakeTalk(RIGHT, pieces=(MID_STREAM + 5,)))
    waiting = [asyncio.create_task(made.moments.wait(m)) for m in (Moment.HANDOVER, Moment.STREAM, Moment.PROMPT)]
    await asyncio.sleep(0)
    await made._one(ASK, PATIENT)
    async with asyncio.timeout(20):
        await asyncio.gather(*waiting)


async def test_clients_ask_until_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.chaos.load.THINK_S", 0.001)
    made = load(FakeTalk(RIGHT))
    await made.run(3, 0.05)
    assert {outcome.verdict for outcome in made.outcomes} == {Verdict.RIGHT}
    assert len(made.outcomes) >= 3


async def test_right_answers_are_those_of_a_server_in_peace() -> None:
    talk = cast("Talk", FakeTalk(RIGHT))
    assert await right_answers(talk, (ASK,)) == {0: RIGHT}
    with pytest.raises(Unavailable, match="ask 0 failed before anything was hurt: gone"):
        await right_answers(cast("Talk", FakeTalk(Failed("gone", HALF))), (ASK,))
