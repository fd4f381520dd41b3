"""KV of a prompt that some ranks computed, moved by a real transport into the pool of another number of ranks."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from engine.runner import Runner
from kvtransfer.stores import store_of
from kvtransfer.transport import Commit
from tests.engine.tp.ranks import ThreadRanks
from tests.kvtransfer.pools import Wire, make_ticket
from tests.reference import Blocks, sequence_of, step
from tests.shared_data import shared_data

SIZES = (1, 2, 4)
Team = dict[int, Runner]


@pytest.fixture(scope="module")
def roles() -> Iterator[tuple[Team, Team]]:
    """Prefill's runners and decode's, by their number of ranks."""
    folder = shared_data("models", "stories260K")
    opened = [ThreadRanks(folder, size, block_tokens=4) for size in SIZES * 2]
    runners = [each.runner for each in opened]
    yield dict(zip(SIZES, runners[:3], strict=True)), dict(zip(SIZES, runners[3:], strict=True))
    for each in opened:
        each.close()


@pytest.fixture(scope="module")
def goldens() -> list[dict[str, Any]]:
    """The longest prompts: of several blocks."""
    path = shared_data("models", "stories260K") / "golden_greedy.json"
    cases: list[dict[str, Any]] = json.loads(path.read_text())["cases"]
    return sorted(cases, key=lambda case: len(case["prompt_ids"]))[-2:]


@pytest.mark.parametrize("transport", ["inproc", pytest.param("zeromq-ipc", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("prefill", "decode"),
    [pytest.param(p, d, marks=pytest.mark.slow if p == d else ()) for p in SIZES for d in SIZES],
)
async def test_answers_are_the_goldens_whoever_computed_the_prompt(
    prefill: int, decode: int, transport: Any, roles: tuple[Team, Team], goldens: list[dict[str, Any]]
) -> None:
    source, target = roles[0][prefill], roles[1][decode]
    target.cache.clear(target.cache.num_blocks)  # of what other tests have left, which would be as good
    source_blocks, target_blocks = Blocks(source), Blocks(target)
    async with Wire(transport) as wire:
        receiver, sender = wire.receiver(store_of(target.cache)), wire.sender(store_of(source.cache))
        for index, golden in enumerate(goldens):
            prompt = golden["prompt_ids"]
            computed, continued = sequence_of("p", prompt), sequence_of("d", prompt)
            first = int(step(source, source_blocks, [(computed, len(prompt))])[computed.id].argmax())

            target_blocks.grow(continued, len(prompt))
            ticket = make_ticket(receiver, target.cache, len(continued.blocks), name=str(index))
            receiver.open(ticket, list(continued.blocks))
            await sender.send(ticket, 0, list(computed.blocks))
            await sender.commit(ticket, Commit(first))

            continued.num_computed = len(prompt)
            continued.append(wire.arrived[index].commit.first_token)
            while continued.num_output < len(golden["output_ids"]):
                continued.append(int(step(target, target_blocks, [(continued, 1)])[continued.id].argmax()))
            assert continued.tokens[len(prompt) :].tolist() == golden["output_ids"]
