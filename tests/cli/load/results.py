"""Results made by hand, as the two kinds of run give them."""

from collections.abc import Sequence

from cli.load.client import ServedModel
from cli.load.config import InterferenceConfig, LoadConfig, TargetConfig
from cli.load.interference import CANCELLED, InterferenceResult, Phases, summarize_interference
from cli.load.measure import Record, summarize
from cli.load.run import Result, count_failures
from tests.cli.load.records import record

TARGET = TargetConfig(url="http://fake:1", api_key="secret")


def load_result(records: Sequence[Record], duration_s: float = 5.0, name: str = "fake", **fields: object) -> Result:
    config = LoadConfig(target=TARGET, goodput={"ttft": 500.0}, **fields)  # type: ignore[arg-type]
    return Result(
        config=config,
        model=ServedModel(name, 50, 99),
        vocab=50,
        notes=("a note",),
        records=tuple(records),
        duration_s=duration_s,
        summary=summarize(records, duration_s, config.goodput),
        failures=count_failures(records),
        client_cpu_s=0.25,
    )


def interference_result(streams: Sequence[Record] = (), num_streams: int = 2) -> InterferenceResult:
    """Two streams with a token every 100 ms; at 3 s, a long prompt holds both up for 700 ms."""
    phases = Phases(quiet_from=0.5, busy_from=3.0, busy_until=5.0)
    times = tuple(i / 10 for i in range(1, 31)) + tuple(3.7 + i / 10 for i in range(12))
    streams = streams or [record(i, 0.0, times, error=CANCELLED, end_s=5.0) for i in range(num_streams)]
    longs = [record(0, 3.0, (3.6, 3.7)), record(1, 4.0, (), error="HTTP 500: why", end_s=4.1)]
    return InterferenceResult(
        config=InterferenceConfig(target=TARGET, streams=num_streams),
        model=ServedModel("fake", 50, 99),
        notes=("a note",),
        phases=phases,
        streams=tuple(streams),
        longs=tuple(longs),
        summary=summarize_interference(streams, longs, phases),
        failures=count_failures(longs),
        client_cpu_s=0.25,
    )
