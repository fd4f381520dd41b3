"""Where the time to an answer's first tokens went, as a small table with bars."""

from rich.console import Group
from rich.table import Table
from rich.text import Text

from protos import generate_pb2 as pb

BAR_CELLS = 32
EIGHTHS = " ▏▎▍▌▋▊▉█"


def ledger(finished: pb.Finished) -> Group:
    """The ledger of one answer. Segments of one table do not overlap and add up to its last row."""
    timing, usage = finished.timing, finished.usage
    tables = [_table("time to first token", timing.ttft_ms, list(timing.ttft_segments))]
    if timing.HasField("second_token_ms"):
        tables.append(_table("first to second token", timing.second_token_ms, list(timing.second_token_segments)))
    cached = f" ({usage.cached_tokens} cached)" if usage.cached_tokens else ""
    counts = f"{usage.prompt_tokens} prompt tokens{cached}, {usage.completion_tokens} completion tokens"
    known = f"workers' clocks are known ± {timing.clock_within_ms:.2f} ms" if timing.HasField("clock_within_ms") else ""
    return Group(*tables, *(Text(line, "dim") for line in (counts, known) if line))


def _table(title: str, total_ms: float, segments: list[pb.Segment]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(style="blue", no_wrap=True)
    for segment in segments:
        table.add_row(segment.name, f"{segment.ms:.1f} ms", bar(segment.ms, total_ms))
    table.add_row(Text(title, "bold"), Text(f"{total_ms:.1f} ms", "bold"), "", end_section=True)
    return table


def bar(part: float, whole: float) -> str:
    """`part` of `whole` as a bar, to an eighth of a cell."""
    eighths = round(8 * BAR_CELLS * min(max(part / whole, 0.0), 1.0)) if whole > 0 else 0
    return "█" * (eighths // 8) + (EIGHTHS[eighths % 8] if eighths % 8 else "")
