import json
from dataclasses import replace

from rich.console import Console

from cli.chaos.asks import PATIENT, Ask, Dialect, Kind
from cli.chaos.checks import Custody, Grown
from cli.chaos.faults import Action, Fault, Moment
from cli.chaos.load import Outcome, Verdict
from cli.chaos.report import Config, Report, render, to_json
from cli.chaos.strikes import State, Strike
from cli.chaos.victims import Vitals

ASK = Ask(number=7, kind=Kind.SEEDED, dialect=Dialect.CHAT, stream=True, prompt="hi", fields={"seed": 1})
RIGHT = Outcome(ASK, PATIENT, Verdict.RIGHT, "", "req-1", 0.5, ())
KILL = Strike(
    fault=Fault(3, 2.0, Action.KILL, "decode", Moment.STREAM, 0),
    at_s=2.1,
    victim="decode-1",
    moment=Moment.STREAM,
    recovered_s=4.2,
)
SMALL = Vitals(10_240, 20, 5)
WELL = Report(
    config=Config(url="", model="", minutes=1.0, seed=5, num_asks=10, num_clients=2, every_s=3.0),
    served_model="demo",
    duration_s=60.0,
    outcomes=(RIGHT, replace(RIGHT, verdict=Verdict.CANCELLED)),
    strikes=(KILL,),
    custody=Custody(0, (), 0.4),
    missing=(),
    grown=(Grown("tandem up", True, SMALL, SMALL, 1024), Grown("frontend", True, SMALL, SMALL, 1024)),
    num_corrupted=3,
)


def shown(report: Report) -> str:
    console = Console(width=160)
    with console.capture() as capture:
        console.print(render(report))
    return capture.get()


def test_all_is_well() -> None:
    assert WELL.wrong == []
    text = shown(WELL)
    assert "all is well" in text
    assert [line.split() for line in text.splitlines() if line.startswith("seeded")] == [
        ["seeded", "2", "1", "1", "0", "0", "0", "0"]
    ]
    assert "kill decode" in text
    assert "4.2 s" in text
    assert "3 pieces of KV corrupted" in text


def test_a_wrong_and_a_lost_answer_can_be_found_again() -> None:
    wrong = replace(
        RIGHT, verdict=Verdict.WRONG, why="from character 3 on it is 'x' instead of 'y'", request_id="req-9"
    )
    lost = replace(RIGHT, verdict=Verdict.LOST, why="no end within 120 s", request_id="")
    report = replace(WELL, outcomes=(RIGHT, wrong, lost))
    assert report.wrong == [
        "wrong: req-9, ask 7 (seeded, chat, streamed), sent at 0.5 s: from character 3 on it is 'x' instead of 'y'",
        "lost: no request id, ask 7 (seeded, chat, streamed), sent at 0.5 s: no end within 120 s",
    ]
    assert "2 things are wrong" in shown(report)
    assert "--seed 5 --asks 10" in shown(report)


def test_everything_else_that_is_wrong_is_told() -> None:
    grown = Grown("frontend", True, SMALL, replace(SMALL, rss_kib=20_480), 1024)
    report = replace(
        WELL,
        strikes=(replace(KILL, recovered_s=None),),
        missing=("decode-1",),
        custody=Custody(2, ("decode-0: 2 blocks are leaked",)),
        grown=(grown, replace(grown, name="tandem up", is_same=False)),
    )
    assert report.wrong == [
        "fault 3: decode-1 did not come back after kill",
        "decode-1 is not ready at the end",
        "decode-0: 2 blocks are leaked",
        "frontend has grown by 10 MiB; 1 MiB are plenty",
        "tandem up did not survive",
    ]
    assert "blocks are still held" in shown(report)


def test_a_run_that_did_nothing_is_not_well() -> None:
    skipped = replace(KILL, state=State.SKIPPED, victim="", recovered_s=None)
    assert replace(WELL, strikes=(skipped,)).wrong == [
        "nothing was hurt: the run was too short for its faults (--minutes, --every)"
    ]
    assert replace(WELL, outcomes=()).wrong == ["no request was answered to its end"]


def test_refusals_are_counted() -> None:
    refused = replace(RIGHT, refusals=("no decode worker serves demo now",) * 2)
    assert "2 x no decode worker serves demo now" in shown(replace(WELL, outcomes=(refused,)))


def test_json_has_a_row_per_request_fault_and_process() -> None:
    written = json.loads(to_json(WELL))
    assert written["wrong"] == []
    assert written["verdicts"] == {"right": 1, "left": 1, "late": 0, "wrong": 0, "lost": 0}
    assert [row["ask"] for row in written["requests"]] == [7, 7]
    (fault,) = written["faults"]
    assert (fault["action"], fault["victim"], fault["recovered_s"]) == ("kill", "decode-1", 4.2)
    assert [row["name"] for row in written["processes"]] == ["tandem up", "frontend"]
