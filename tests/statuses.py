"""A status and records as a frontend tells them, to be drawn."""

import msgspec

from frontend.api import WorkerStatus
from frontend.minute import LastMinute
from frontend.recorder import LatestDecision
from frontend.records import RequestAttempt, RequestRecord, RouterDecision
from frontend.status import ServerStatus
from frontend.tally import Counts

NOW_S = 1_800_000_000.0
REMOTE = RouterDecision(
    choice="remote",
    why="by the estimates",
    decode="decode-0",
    prefill="prefill-1",
    cached_tokens=256,
    local_ms=212.5,
    remote_ms=168.25,
    local_loss_ms=48.0,
    remote_loss_ms=0.0,
)
LOCAL = RouterDecision(
    choice="local",
    why="no prefill worker can take it",
    decode="decode-1",
    prefill=None,
    cached_tokens=0,
    local_ms=None,
    remote_ms=None,
    local_loss_ms=None,
    remote_loss_ms=None,
)
SEGMENTS = {
    "admit": 0.1,
    "tokenize": 1.4,
    "route": 0.08,
    "grant": 6.5,
    "prefill_queue": 22.0,
    "prefill_compute": 148.0,
    "transfer_wait": 0.0,
    "egress": 1.92,
}


def record(number: int = 0, **changes: object) -> RequestRecord:
    made = RequestRecord(
        request_id=f"req-{number:024x}",
        trace_id="4bf92f3577b34da6a3ce929d0e0e4736",
        traced=True,
        key="",
        model="demo",
        operation="chat",
        arrived_s=NOW_S - 12.5,
        outcome="stop",
        failed=False,
        prompt_tokens=812,
        cached_tokens=256,
        output_tokens=64,
        e2e_ms=1460.0,
        ttft_ms=180.0,
        ttft_segments=SEGMENTS,
        second_token_ms=40.0,
        second_token_segments={"transfer_tail": 17.0, "decode_queue": 6.0, "decode_step": 16.0, "decode_egress": 1.0},
        way_ms=0.9,
        clock_within_ms=0.21,
        num_attempts=1,
        attempts=[RequestAttempt(1, 8.1, REMOTE)],
    )
    return msgspec.structs.replace(made, **changes)


def refused() -> RequestRecord:
    return record(
        7,
        outcome="OVERLOADED",
        failed=True,
        error="1024 requests are waiting; the first token would come in about 40 s after 1024 that wait",
        output_tokens=0,
        e2e_ms=2.5,
        ttft_ms=None,
        ttft_segments={"admit": 0.1, "tokenize": 1.9, "route": 0.0, "grant": 0.5},
        second_token_ms=None,
        second_token_segments={},
        num_attempts=1,
        attempts=[],
    )


def worker(name: str, **changes: object) -> WorkerStatus:
    role = name.partition("-")[0]
    fields: dict[str, object] = {
        "worker_id": name,
        "role": role,
        "address": f"unix:/run/{name}",
        "model": "demo",
        "ready": True,
        "num_blocks": 1024,
        "free_blocks": 700,
        "cached_blocks": 200,
        "promised_blocks": 10,
        "leaked_blocks": 0,
        "block_tokens": 16,
        "running": 12 if role == "decode" else 2,
        "queued": 0 if role == "decode" else 5,
        "queued_tokens": 0 if role == "decode" else 6400,
        "max_sequences": 64,
        "prefill_tokens_per_s": 5400.0 if role == "prefill" else 0.0,
        "decode_step_s": 0.0152 if role == "decode" else 0.0,
        "transfer_bytes_per_s": 1.9e9 if role == "prefill" else 0.0,
        "slowdown": 1.1,
        "state": "",
        "counts": Counts(),
        **changes,
    }
    return WorkerStatus(**fields)  # type: ignore[arg-type]


def status(**changes: object) -> ServerStatus:
    made = ServerStatus(
        version="0.1.0",
        models=["demo"],
        at_s=NOW_S,
        up_s=3725.0,
        ready=True,
        reason="",
        in_flight=14,
        queued_requests=3,
        max_queued_requests=1024,
        last_minute=LastMinute(
            over_s=60.0,
            num_answered=126,
            num_failed={"OVERLOADED": 3, "CANCELLED": 1},
            prompt_tokens=102_000,
            cached_tokens=32_000,
            output_tokens=8_064,
            ttft_mean_ms=180.0,
            ttft_p50_ms=150.0,
            ttft_p95_ms=420.0,
            ttft_max_ms=1_900.0,
            ttft_segments=SEGMENTS,
            answers_per_s=2.1,
            prompt_tokens_per_s=1700.0,
            output_tokens_per_s=134.4,
            cached_share=0.3137,
        ),
        workers=[
            worker("prefill-0"),
            worker("prefill-1", running=0, queued=0, queued_tokens=0),
            worker("decode-0"),
            worker("decode-1", ready=False, state="a step has not ended for 12 s", running=0),
        ],
        slowest=[record(n, ttft_ms=1900.0 - 100 * n) for n in range(6)],
        decisions=[
            LatestDecision(f"req-{n:024x}", "", NOW_S - n, 1, REMOTE if n % 2 == 0 else LOCAL) for n in range(6)
        ],
    )
    return msgspec.structs.replace(made, **changes)
