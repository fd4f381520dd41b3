"""What the segments of a ledger are, in words: for whoever draws one. Knows no request."""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import NamedTuple


class Kind(StrEnum):
    """What a request does in a segment."""

    WORK = "work"
    WAIT = "wait"
    MOVE = "move"


class Segment(NamedTuple):
    name: str
    kind: Kind
    meaning: str
    remedy: str
    """What to look at where it is the largest."""


SEGMENTS = (
    Segment("admit", Kind.WORK, "checks", "the frontend is busy: CPUs of its own (--frontend-cpus), or another one"),
    Segment(
        "tokenize",
        Kind.WORK,
        "chat template and tokenizer",
        "long prompts, or a grammar that nobody had before: CPUs for the frontend",
    ),
    Segment("route", Kind.WORK, "choosing workers", "the frontend is busy: CPUs of its own (--frontend-cpus)"),
    Segment(
        "grant",
        Kind.WAIT,
        "waiting for room on a decode worker",
        "one more decode worker, a larger or denser KV pool (--kv-memory-mb, --kv-cache-dtype), more --max-sequences",
    ),
    Segment(
        "retry",
        Kind.WAIT,
        "attempts that failed, and finding workers again",
        "the frontend's log, which says why each attempt failed, and the logs of the workers that had it",
    ),
    Segment("prefill", Kind.WORK, "with the workers, no token yet", "the workers that had it"),
    Segment(
        "prefill_queue",
        Kind.WAIT,
        "waiting for the worker that computes the prompt",
        "one more prefill worker, or more CPUs for those there are",
    ),
    Segment(
        "prefill_compute",
        Kind.WORK,
        "computing the prompt",
        "a worker that is slower than predicted; long prompts that are not cached: beginnings that they share, "
        "--quantization int8, more CPUs per worker",
    ),
    Segment("transfer_wait", Kind.MOVE, "the first token waited for KV", "nothing: it does not wait for the transfer"),
    Segment(
        "egress",
        Kind.WORK,
        "hops between processes, and the client's stream",
        "the network between frontend and workers, the frontend's CPU, or a client that reads slowly",
    ),
    Segment(
        "transfer_tail",
        Kind.MOVE,
        "KV on its way to the decode worker",
        "a faster link, workers on one host (shared memory), a denser KV cache (--kv-cache-dtype)",
    ),
    Segment(
        "decode_queue",
        Kind.WAIT,
        "waiting for the step that joins it",
        "one more decode worker, fewer --max-sequences, fewer prompts computed there (--always-remote)",
    ),
    Segment(
        "decode_step", Kind.WORK, "that step", "one more decode worker, fewer --max-sequences, --quantization int8"
    ),
    Segment(
        "decode_egress",
        Kind.WORK,
        "the hop back from the decode worker, and the client's stream",
        "the network between frontend and workers, the frontend's CPU",
    ),
    Segment("client", Kind.WAIT, "the client had not taken yet what came before", "the client, or what is before it"),
)
"""In the order of time; `prefill` stands for what comes after it where no more is known."""

BY_NAME: Mapping[str, Segment] = {segment.name: segment for segment in SEGMENTS}


def of_kind(kind: Kind) -> Iterable[str]:
    return (segment.name for segment in SEGMENTS if segment.kind is kind)
