"""Eight causes of a late token: the ledger names each, and adds up.

What is asserted is which segment is the largest, never how long anything takes.
"""

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from frontend.events import Timing
from tests.frontend.causes import (
    Cause,
    Caused,
    cold_prefix,
    decode_full,
    heavy_prompt,
    long_queue,
    slow_client,
    slow_link,
    slow_prefill,
    worker_restart,
)

pytestmark = pytest.mark.slow


@asynccontextmanager
async def made(cause: Cause) -> AsyncIterator[Caused]:
    """Every ledger adds up, within a millisecond and better."""
    with tempfile.TemporaryDirectory(prefix="tandem-") as folder:
        async with cause(Path(folder)) as caused:
            for timing in (caused.timing, *caused.others):
                assert sum(timing.ttft_segments.values()) == pytest.approx(timing.ttft_ms, abs=1.0)
                if timing.second_token_ms is not None:
                    second = sum(timing.second_token_segments.values())
                    assert second == pytest.approx(timing.second_token_ms, abs=1.0)
            yield caused


def largest(timing: Timing) -> str:
    return max(timing.ttft_segments, key=timing.ttft_segments.__getitem__)


def largest_of_second(timing: Timing) -> str:
    return max(timing.second_token_segments, key=timing.second_token_segments.__getitem__)


async def test_a_slow_prefill_worker() -> None:
    async with made(slow_prefill) as caused:
        assert largest(caused.timing) == "prefill_compute"


async def test_a_long_queue_before_prefill() -> None:
    async with made(long_queue) as caused:
        assert largest(caused.timing) == "prefill_queue"
        assert largest(caused.others[0]) == "prefill_compute", "the first in the queue does not wait"


async def test_a_slow_link() -> None:
    async with made(slow_link) as caused:
        timing, (fast,) = caused.timing, caused.others
        assert largest_of_second(timing) == "transfer_tail"
        assert timing.second_token_segments["transfer_tail"] > fast.second_token_segments["transfer_tail"]
        assert timing.ttft_segments["transfer_wait"] == 0, "the first token does not wait for it"


async def test_decode_is_full() -> None:
    async with made(decode_full) as caused:
        assert largest(caused.timing) == "grant"


async def test_a_cold_prefix() -> None:
    async with made(cold_prefix) as caused:
        cold, (warm,) = caused.timing, caused.others
        assert largest(cold) == "prefill_compute"
        assert cold.cached_share == 0
        assert warm.cached_share > 0.9
        assert warm.ttft_segments["prefill_compute"] < cold.ttft_segments["prefill_compute"]


async def test_a_prompt_that_is_heavy_for_the_tokenizer() -> None:
    async with made(heavy_prompt) as caused:
        assert largest(caused.timing) == "tokenize"


async def test_a_client_that_reads_slowly() -> None:
    async with made(slow_client) as caused:
        timing = caused.timing
        assert largest_of_second(timing) == "client"
        assert timing.client_ms >= timing.second_token_segments["client"]
        quick_parts = [ms for name, ms in timing.second_token_segments.items() if name != "client"]
        assert sum(quick_parts) < timing.second_token_segments["client"]


async def test_a_decode_worker_that_starts_anew() -> None:
    async with made(worker_restart) as caused:
        timing = caused.timing
        assert largest(timing) == "retry"
        assert timing.ttft_segments["retry"] > timing.ttft_segments["grant"]
