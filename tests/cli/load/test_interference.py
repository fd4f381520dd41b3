import pytest

from cli.load.config import InterferenceConfig, TargetConfig
from cli.load.interference import CANCELLED, Phases, run_interference, summarize_interference
from engine.errors import ConfigError, Unavailable
from tests.cli.load.fake_openai import Answer, FakeOpenAI, serving
from tests.cli.load.records import record

PHASES = Phases(quiet_from=1.0, busy_from=3.0, busy_until=7.0)


def test_gaps_belong_to_the_phase_in_which_they_end() -> None:
    # gaps: 0.4 s before the quiet phase; 0.5, 1.0 quiet; 1.5, 2.0 busy; 1.5 after
    one = record(0, 0.0, (0.5, 0.9, 1.4, 2.4, 3.9, 5.9, 7.4), error=CANCELLED)
    # a stream that ended and asked again: 0.5 quiet, 0.5 busy; nothing between the two requests
    two = [record(1, 0.0, (2.0, 2.5), tokens=4), record(1, 3.0, (4.0, 4.5), error=CANCELLED)]
    longs = [record(0, 3.0, (3.2, 3.3)), record(1, 4.0, (4.6,)), record(2, 5.0, (), error="HTTP 500")]
    summary = summarize_interference([one, *two], longs, PHASES)
    assert (summary["quiet_s"], summary["busy_s"]) == (2.0, 4.0)
    assert (summary["quiet_gaps"], summary["busy_gaps"]) == (3, 3)
    assert summary["quiet_p50_itl_ms"] == pytest.approx(500)
    assert summary["quiet_max_itl_ms"] == pytest.approx(1000)
    assert summary["quiet_p99_itl_ms"] == pytest.approx(990), "of 500, 500, 1000"
    assert summary["busy_p50_itl_ms"] == pytest.approx(1500)
    assert summary["busy_p99_itl_ms"] == pytest.approx(1990), "of 500, 1500, 2000"
    assert summary["busy_p99_over_quiet_p50"] == pytest.approx(3.98)
    assert summary["busy_max_over_quiet_p50"] == pytest.approx(4)
    assert summary["tokens_per_chunk"] == 2, "of the one that ended"
    assert summary["quiet_tokens_per_s"] == pytest.approx(4 / 2 * 2), "chunks at 1.4, 2.4, 2.0, 2.5"
    assert summary["busy_tokens_per_s"] == pytest.approx(4 / 4 * 2), "chunks at 3.9, 5.9, 4.0, 4.5"
    assert (summary["longs_completed"], summary["longs_failed"]) == (2, 1)
    assert summary["longs_median_ttft_ms"] == pytest.approx(400)
    assert summary["longs_max_ttft_ms"] == pytest.approx(600)


def test_nothing_is_reported_of_no_gaps() -> None:
    summary = summarize_interference([], [], PHASES)
    assert (summary["quiet_gaps"], summary["quiet_p50_itl_ms"], summary["busy_p99_over_quiet_p50"]) == (0, None, None)
    assert summary["longs_median_ttft_ms"] is None


def config(url: str, **fields: object) -> InterferenceConfig:
    defaults: dict[str, object] = {"streams": 3, "input_len": 5, "quiet_s": 0.1, "long_input_len": 40}
    times: dict[str, object] = {"long_output_len": 2, "long_every_s": 0.1, "duration_s": 0.4}
    target = TargetConfig(url=url, timeout_s=20.0)
    return InterferenceConfig(target=target, **(defaults | times | fields))  # type: ignore[arg-type]


def test_streams_run_until_the_long_prompts_are_over_and_being_stopped_is_no_failure() -> None:
    fake = FakeOpenAI(rest=Answer(("a", "b", "c", "d"), is_held=True), long_answer=Answer(("x", "y")))
    phases: list[str] = []
    with serving(fake) as url:
        result = run_interference(config(url), lambda phase, seconds: phases.append(phase))
    assert phases == ["streams start", "quiet", "long prompts"]
    assert sorted(record.index for record in result.streams) == [0, 1, 2]
    assert {(record.error, len(record.reply.chunks_s)) for record in result.streams} == {(CANCELLED, 4)}
    assert (result.summary["longs_completed"], result.summary["longs_failed"], result.failures) == (4, 0, {})
    assert {len(str(body["prompt"]).split()) for body in fake.bodies} == {5, 40}
    assert 0 < result.phases.quiet_from < result.phases.busy_from < result.phases.busy_until
    assert all(record.sent_s >= result.phases.busy_from for record in result.longs)


def test_streams_that_end_ask_again_and_long_prompts_that_fail_are_counted() -> None:
    fake = FakeOpenAI(long_answer=Answer(status=503))
    with serving(fake) as url:
        result = run_interference(config(url, streams=1))
    assert len(result.streams) > 1
    assert result.failures == {"HTTP 503": 4}
    assert any("ended and asked again" in note for note in result.notes)


def test_streams_that_do_not_start_are_refused() -> None:
    with (
        serving(FakeOpenAI(rest=Answer(status=500))) as url,
        pytest.raises(Unavailable, match="nothing was measured: HTTP 500"),
    ):
        run_interference(config(url))
    with pytest.raises(ConfigError, match="chat"):
        run_interference(InterferenceConfig(target=TargetConfig(url="http://127.0.0.1:1", endpoint="chat")))
