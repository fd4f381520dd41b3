"""Records made by hand."""

from cli.load.measure import Record, Reply


def record(
    index: int,
    sent_s: float,
    chunks_s: tuple[float, ...],
    *,
    tokens: int | None = None,
    error: str | None = None,
    due_s: float | None = None,
    end_s: float | None = None,
    asked_output: int = 3,
) -> Record:
    """Of a prompt of 10 tokens; it ends with its last chunk, and was due when it was sent."""
    end_s = (chunks_s[-1] if chunks_s else sent_s) if end_s is None else end_s
    reply = Reply(chunks_s, 10, len(chunks_s) if tokens is None else tokens, error)
    return Record(index, sent_s if due_s is None else due_s, sent_s, end_s, 10, asked_output, reply)
