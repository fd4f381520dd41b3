"""Workers of several processes each, as `tandem up` starts them."""

import os
import signal

import psutil
import pytest

from tests.e2e.clients import STORIES, goldens, metric, model_folder, until, until_idle
from tests.e2e.server import Tandem, tandem
from tests.e2e.test_goldens import check

pytestmark = pytest.mark.slow


def ranks(server: Tandem, name: str) -> list[psutil.Process]:
    """The other processes of one worker."""
    children: list[psutil.Process] = server.processes()[name].children()
    return children


@pytest.mark.parametrize("transport", ["shm", "tcp"])
async def test_any_number_of_ranks_on_either_side(transport: str) -> None:
    for prefill, decode in ((2, 4), (4, 1), (1, 2)):
        arguments = ("--model", model_folder(STORIES), "--prefill-tp", str(prefill), "--decode-tp", str(decode))
        arguments = (*arguments, "--transport", transport, "--max-step-tokens", "16", "--debug-custody")
        with tandem(*arguments, environment={"TANDEM_ALWAYS_REMOTE": "true"}) as server:
            counts = {name: len(ranks(server, name)) for name in ("prefill-0", "decode-0")}
            assert counts == {"prefill-0": prefill - 1, "decode-0": decode - 1}
            rows = goldens(STORIES) * 2
            await check(server, STORIES, rows)
            await until_idle(server, num_workers=2)
            assert await metric(server, "tandem_router_decisions_total", choice="remote") == [len(rows)]


async def test_a_worker_whose_rank_is_killed_is_started_again() -> None:
    with tandem("--model", model_folder(STORIES), "--prefill-tp", "2", "--decode-tp", "2") as server:
        await check(server, STORIES, goldens(STORIES))
        for name in ("decode-0", "prefill-0"):
            old = server.processes()[name]
            (rank,) = ranks(server, name)
            os.kill(rank.pid, signal.SIGKILL)

            async def back(name: str = name, old: psutil.Process = old) -> bool:
                new = server.processes().get(name)
                return new is not None and new.pid != old.pid and len(ranks(server, name)) == 1

            await until(back, f"{name} was not started again")
            await until_idle(server, num_workers=2)  # it serves
            await check(server, STORIES, goldens(STORIES))
        await until_idle(server, num_workers=2)
